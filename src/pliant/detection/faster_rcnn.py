# SPDX-License-Identifier: Apache-2.0
"""Faster and Mask R-CNN with a feature pyramid: torchvision's detectors with deformable layers and RoI pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from pliant._check import fail
from pliant.detection.box_heads import BoxHeads
from pliant.detection.dilated import at_least_float32
from pliant.detection.proposals import Anchors, PreciseHead
from pliant.detection.pyramid import PyramidBackbone, pyramid_backbone
from pliant.detection.roi_pools import roi_pool as build_roi_pool
from pliant.nn.deform_roi_pool import Branch

BOX_BINS = 7
MASK_BINS = 14
MASK_LAYERS = 4


def faster_rcnn(
    num_classes: int,
    backbone: str | PyramidBackbone = "resnet50",
    *,
    deform: str | None = None,
    modulated: bool = True,
    offset_groups: int = 1,
    mask_scale: float = 2.0,
    weights: str | None = None,
    norm: str = "auto",
    frozen_stages: int | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    fpn_channels: int = 256,
    roi_pool: str = "align",
    roi_branch: Branch = "paper",
    roi_shared: bool = True,
    head_channels: int = 1024,
    masks: bool = False,
    mask_channels: int = 256,
    anchor_sizes: Sequence[float] | None = None,
    anchor_scales: Sequence[float] = (1.0,),
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    roi_samples: int = 512,
    ohem: int | None = None,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    proposals: int = 1000,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
) -> FasterRCNN:
    """Return torchvision's Faster R-CNN over a feature pyramid; its Mask R-CNN with `masks`.

    Args:
        num_classes: classes with the background, as in torchvision: C + 1 for labels 1..C.
        backbone: a name for `pyramid_backbone`, or a finished backbone; then the arguments down to `fpn_channels`,
            which are its, are not read.
        deform: which convolutions become deformable, `c3-c5` for instance; None: none.
        modulated: DCNv2's modulation; False gives DCNv1.
        offset_groups: groups of channels with offsets of their own.
        mask_scale: factor of the modulation's sigmoid; 2 keeps the network's function at the start.
        weights: checkpoint of the backbone, `default` to download the library's own, or None.
        norm: `frozen`, `batch`, or `auto`: frozen where there are weights.
        frozen_stages: first stages that are not trained; None: 2 where there are weights, else 0.
        strides: strides in input pixels of the maps that the pyramid is built on.
        fpn_channels: channels of the pyramid's maps.
        roi_pool: how regions are pooled, for boxes (7x7 bins) and masks (14x14): `align` is torchvision's RoIAlign,
            `deform` deformable RoI pooling (v1), `modulated` that with weights of the bins (v2).
        roi_branch: layers of the pools' offset branch, `paper` or `mmcv`; see `pliant.nn.DeformRoIPool`.
        roi_shared: one offset branch for all maps of the pyramid; False: one for each.
        head_channels: width of the two fully connected layers on each region.
        masks: whether each detection gets a mask; targets then need `masks`.
        mask_channels: width of the mask head.
        anchor_sizes: side in pixels of the (resized) image of the square anchor of each map, the extra one
            included; None: 8 times the map's stride.
        anchor_scales: factors; each map has an anchor for each of them ...
        anchor_ratios: ... and for each ratio of height to width.
        roi_samples: regions per image on which the second stage is trained.
        ohem: None, or train it on these many hardest of all proposals instead (512 in the official pyramid).
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in tests) ...
        max_size: ... unless the long side would have more than these.
        proposals: regions per image handed to the second stage at test time.
        score_threshold: detections with a lower score are dropped (0..1).
        nms_threshold: of two boxes of a class that overlap by more than this IoU the lower score is dropped.
        max_detections: most detections per image.

    Returns:
        A `torchvision.models.detection.FasterRCNN`, with `masks` a `MaskRCNN`.

    Raises:
        PliantError: an argument out of its range, or a checkpoint which does not fit.

    Example:
        >>> import torch
        >>> model = faster_rcnn(num_classes=3, backbone="resnet18", min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    References:
        Faster R-CNN (arXiv 1506.01497); Feature Pyramid Networks (arXiv 1612.03144);
        Deformable Convolutional Networks (arXiv 1703.06211), section 2; Deformable ConvNets v2 (arXiv 1811.11168),
        section 3.
    """
    if num_classes < 2:
        fail("num_classes", "must count the background and one class at least", num_classes, "use 2 for one class")
    if isinstance(backbone, str):
        backbone = pyramid_backbone(
            backbone,
            deform=deform,
            modulated=modulated,
            offset_groups=offset_groups,
            mask_scale=mask_scale,
            weights=weights,
            norm=norm,
            frozen_stages=frozen_stages,
            strides=strides,
            out_channels=fpn_channels,
        )
    if masks and ohem is not None:
        fix = "leave it out"
        fail("ohem", "must be left out with masks, which are trained on sampled regions", ohem, fix)
    names, channels = [str(k) for k in range(len(backbone.strides) - 1)], backbone.out_channels

    def pool(bins: int) -> MultiScaleRoIAlign:
        return build_roi_pool(roi_pool, names, bins, channels, branch=roi_branch, shared=roi_shared)

    mask_parts: dict[str, Any] = {}
    if masks:
        mask_parts["mask_roi_pool"] = pool(MASK_BINS)
        mask_parts["mask_head"] = MaskRCNNHeads(channels, (mask_channels,) * MASK_LAYERS, dilation=1)
        mask_parts["mask_predictor"] = _MaskPredictor(mask_channels, mask_channels, num_classes)
    anchors = _anchors(backbone.strides, anchor_sizes, anchor_scales, anchor_ratios)
    detector = MaskRCNN if masks else FasterRCNN
    model = detector(
        backbone,
        min_size=min_size if isinstance(min_size, int) else tuple(min_size),
        max_size=max_size,
        image_mean=list(backbone.image_mean),
        image_std=list(backbone.image_std),
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_roi_pool=pool(BOX_BINS),
        box_head=TwoMLPHead(channels * BOX_BINS**2, head_channels),
        box_predictor=_Predictor(head_channels, num_classes),
        rpn_head=PreciseHead(channels, anchors.num_anchors_per_location()[0]),
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_threshold,
        box_detections_per_img=max_detections,
        box_batch_size_per_image=roi_samples,
        **mask_parts,
    )
    if ohem is not None:
        model.roi_heads = BoxHeads.mining(model.roi_heads, ohem)
    return model


def mask_rcnn(num_classes: int, backbone: str | PyramidBackbone = "resnet50", **options: Any) -> MaskRCNN:
    """Return torchvision's Mask R-CNN over a feature pyramid: `faster_rcnn(..., masks=True)`.

    Args:
        num_classes: classes with the background, C + 1 for labels 1..C.
        backbone: a name for `pyramid_backbone`, or a finished backbone.
        options: the other arguments of `faster_rcnn`; `roi_pool` decides how boxes and masks are pooled.

    Example:
        >>> import torch
        >>> model = mask_rcnn(num_classes=3, backbone="resnet18", roi_pool="deform", min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'masks', 'scores']

    References:
        Mask R-CNN (arXiv 1703.06870); with both pools deformable as in Deformable ConvNets v2 (arXiv 1811.11168), 5.1.
    """
    return faster_rcnn(num_classes, backbone, **options, masks=True)


class _Predictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's class scores and box deltas of regions, in float32 at least: they become losses and coordinates."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return at_least_float32(scores), at_least_float32(deltas)


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's mask logits of regions, in float32 at least."""

    def forward(self, input: Tensor) -> Tensor:
        return at_least_float32(super().forward(input))


def _anchors(
    strides: Sequence[int], sizes: Sequence[float] | None, scales: Sequence[float], ratios: Sequence[float]
) -> Anchors:
    chosen = [8.0 * stride for stride in strides] if sizes is None else list(sizes)
    if len(chosen) != len(strides):
        rule = f"must give one size for each of the {len(strides)} maps (strides {tuple(strides)})"
        fail("anchor_sizes", rule, f"{len(chosen)} sizes", "leave it out for 8 times the stride")
    scaled = tuple(tuple(size * scale for scale in scales) for size in chosen)
    return Anchors(scaled, (tuple(ratios),) * len(chosen))
