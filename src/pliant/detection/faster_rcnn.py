# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN with a feature pyramid: torchvision's detector on a backbone with deformable layers."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from pliant._check import PliantError, fail

from .box_heads import BoxHeads
from .pyramid import PyramidBackbone, pyramid_backbone

ROI_BINS = 7


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
    head_channels: int = 1024,
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
    """Return torchvision's Faster R-CNN over a feature pyramid.

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
        head_channels: width of the two fully connected layers on each region.
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
        A `torchvision.models.detection.FasterRCNN`.

    Raises:
        PliantError: an argument out of its range, or a checkpoint which does not fit.

    Example:
        >>> import torch
        >>> model = faster_rcnn(num_classes=3, backbone="resnet18", min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']
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
    names = [str(k) for k in range(len(backbone.strides) - 1)]
    model = FasterRCNN(
        backbone,
        min_size=min_size if isinstance(min_size, int) else tuple(min_size),
        max_size=max_size,
        rpn_anchor_generator=_anchors(backbone.strides, anchor_sizes, anchor_scales, anchor_ratios),
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_roi_pool=MultiScaleRoIAlign(names, output_size=ROI_BINS, sampling_ratio=2),
        box_head=TwoMLPHead(backbone.out_channels * ROI_BINS**2, head_channels),
        box_predictor=FastRCNNPredictor(head_channels, num_classes),
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_threshold,
        box_detections_per_img=max_detections,
        box_batch_size_per_image=roi_samples,
    )
    if ohem is not None:
        model.roi_heads = BoxHeads.mining(model.roi_heads, ohem)
    return model


def _anchors(
    strides: Sequence[int], sizes: Sequence[float] | None, scales: Sequence[float], ratios: Sequence[float]
) -> AnchorGenerator:
    chosen = [8.0 * stride for stride in strides] if sizes is None else list(sizes)
    if len(chosen) != len(strides):
        rule = f"must give one size for each of the {len(strides)} maps (strides {tuple(strides)})"
        fail("anchor_sizes", rule, f"{len(chosen)} sizes", "leave it out for 8 times the stride", kind=PliantError)
    scaled = tuple(tuple(size * scale for scale in scales) for size in chosen)
    return AnchorGenerator(scaled, (tuple(ratios),) * len(chosen))
