# SPDX-License-Identifier: Apache-2.0
"""Faster and Mask R-CNN with a feature pyramid: torchvision's, on any trunk, with deformable layers and RoI pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from pliant._check import fail
from pliant.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    StagedNetwork,
    Trunk,
    as_trunk,
    build_trunk,
    pixel_statistics,
)
from pliant.detection.box_heads import BoxHeads, refuse_ohem_with_masks
from pliant.detection.dilated import at_least_float32
from pliant.detection.parts import AnchorOptions, SecondStage, Thresholds
from pliant.detection.proposals import Anchors, PreciseHead
from pliant.detection.roi_pools import roi_pool
from pliant.nn import DeformConv2d
from pliant.nn.deform_roi_pool import Branch

BOX_BINS = 7
MASK_BINS = 14
MASK_LAYERS = 4
MASK_CHANNELS = 256


def faster_rcnn(
    num_classes: int,
    backbone: str | Trunk | PyramidBackbone = "resnet50",
    *,
    second_stage: SecondStage = SecondStage(),
    roi_branch: Branch = "paper",
    roi_shared: bool = True,
    head_channels: int = 1024,
    mask_channels: int | None = None,
    anchors: AnchorOptions = AnchorOptions(),
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    thresholds: Thresholds = Thresholds(),
) -> FasterRCNN:
    """Return torchvision's Faster R-CNN over a feature pyramid; its Mask R-CNN with `mask_channels`.

    Args:
        num_classes: classes with the background, as in torchvision: C + 1 for labels 1..C.
        backbone: a `pliant.backbones.Trunk`, or the name of its network, for `pyramid_backbone`; or what that built.
        second_stage: how regions are pooled and chosen (the official pyramid has `ohem=512`).
        roi_branch: layers of the pools' offset branch, `paper` or `mmcv`; see `pliant.nn.DeformRoIPool`.
        roi_shared: one offset branch for all maps of the pyramid; False: one for each.
        head_channels: width of the two fully connected layers on each region.
        mask_channels: width of the mask head, 256 in Mask R-CNN, whose targets need `masks`; None: no masks.
        anchors: one size for each map of the pyramid.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in evaluation) ...
        max_size: ... unless the long side would have more than these.
        thresholds: which boxes are detections.

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
        fail("num_classes", "must count the background and at least one class", num_classes, "use 2 for one class")
    if not isinstance(backbone, PyramidBackbone):
        backbone = pyramid_backbone(backbone)
    if mask_channels is not None and second_stage.ohem is not None:
        refuse_ohem_with_masks(second_stage.ohem)
    names, channels = [str(k) for k in range(len(backbone.strides) - 1)], backbone.out_channels

    def pool(bins: int) -> MultiScaleRoIAlign:
        kind, samples = second_stage.roi_pool, second_stage.samples_per_bin
        return roi_pool(kind, names, bins, channels, sampling_ratio=samples, branch=roi_branch, shared=roi_shared)

    mask_parts: dict[str, Any] = {}
    if mask_channels is not None:
        mask_parts["mask_roi_pool"] = pool(MASK_BINS)
        mask_parts["mask_head"] = MaskRCNNHeads(channels, (mask_channels,) * MASK_LAYERS, dilation=1)
        mask_parts["mask_predictor"] = _MaskPredictor(mask_channels, mask_channels, num_classes)
    generator = _anchors(backbone.strides, anchors)
    detector = MaskRCNN if mask_parts else FasterRCNN
    model = detector(
        backbone,
        min_size=min_size if isinstance(min_size, int) else tuple(min_size),
        max_size=max_size,
        image_mean=list(backbone.image_mean),
        image_std=list(backbone.image_std),
        rpn_anchor_generator=generator,
        rpn_pre_nms_top_n_test=second_stage.proposals,
        rpn_post_nms_top_n_train=second_stage.train_proposals,
        rpn_post_nms_top_n_test=second_stage.proposals,
        box_roi_pool=pool(BOX_BINS),
        box_head=TwoMLPHead(channels * BOX_BINS**2, head_channels),
        box_predictor=_Predictor(head_channels, num_classes),
        rpn_head=PreciseHead(channels, generator.num_anchors_per_location()[0]),
        box_score_thresh=thresholds.score,
        box_nms_thresh=thresholds.nms,
        box_detections_per_img=thresholds.detections,
        box_batch_size_per_image=second_stage.roi_samples,
        **mask_parts,
    )
    if second_stage.ohem is not None:
        model.roi_heads = BoxHeads.mining(model.roi_heads, second_stage.ohem)
    return model


def mask_rcnn(
    num_classes: int,
    backbone: str | Trunk | PyramidBackbone = "resnet50",
    *,
    mask_channels: int = MASK_CHANNELS,
    **options: Any,
) -> MaskRCNN:
    """Return torchvision's Mask R-CNN over a feature pyramid: `faster_rcnn` with a mask head.

    Args:
        num_classes: classes with the background, C + 1 for labels 1..C.
        backbone: as for `faster_rcnn`.
        mask_channels: width of the mask head.
        options: the other arguments of `faster_rcnn`; `second_stage` decides how boxes and masks are pooled.

    Example:
        >>> import torch
        >>> model = mask_rcnn(3, "resnet18", second_stage=SecondStage("deform"), min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'masks', 'scores']

    References:
        Mask R-CNN (arXiv 1703.06870); with both pools deformable as in Deformable ConvNets v2 (arXiv 1811.11168), 5.1.
    """
    return faster_rcnn(num_classes, backbone, mask_channels=mask_channels, **options)


class _Predictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's class scores and box deltas of regions, in float32 at least: they become losses and coordinates."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return at_least_float32(scores), at_least_float32(deltas)


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's mask logits of regions, in float32 at least."""

    def forward(self, input: Tensor) -> Tensor:
        return at_least_float32(super().forward(input))


def _anchors(strides: Sequence[int], anchors: AnchorOptions) -> Anchors:
    sizes = [8.0 * stride for stride in strides] if anchors.sizes is None else list(anchors.sizes)
    if len(sizes) != len(strides):
        rule = f"must give one size for each of the {len(strides)} maps (strides {tuple(strides)})"
        fail("anchor_sizes", rule, f"{len(sizes)} sizes", "leave it out for 8 times the stride")
    scaled = tuple(tuple(size * scale for scale in anchors.scales) for size in sizes)
    return Anchors(scaled, (tuple(anchors.ratios),) * len(sizes))


class PyramidBackbone(nn.Module):
    """A trunk and the feature pyramid over it: images (N, 3, H, W) to a dict of maps (N, out_channels, H/s, W/s).

    `strides` lists s for each map, the extra max-pooled one included; `image_mean` and `image_std` are those of the
    pixels that the trunk's weights were trained with. Parameter names are torchvision's (`body.*`, `fpn.*`), so that
    its detection checkpoints load.

    Args:
        body: images (N, 3, H, W) to an ordered dict of maps, the finest first.
        channels: of each of these maps.
        strides: input pixels per cell of each.
        out_channels: channels of each map of the pyramid.
    """

    image_mean: Colour = IMAGENET_MEAN
    image_std: Colour = IMAGENET_STD

    def __init__(self, body: nn.Module, channels: Sequence[int], strides: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(channels), out_channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = out_channels
        self.strides = (*strides, 2 * strides[-1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps, the finest first."""
        maps: dict[str, Tensor] = self.fpn(self.body(images))
        return maps


def pyramid_backbone(
    trunk: str | Trunk = "resnet50", *, strides: Sequence[int] = (4, 8, 16, 32), out_channels: int = 256
) -> PyramidBackbone:
    """Build a feature pyramid over `trunk`, whose maps have the given strides and one more, max-pooled from the last.

    Args:
        trunk: a `pliant.backbones.Trunk`, or the name of its network.
        strides: strides in input pixels of the maps that the pyramid is built on.
        out_channels: channels of each map of the pyramid.

    Raises:
        PliantError: an unknown name or stride, or a checkpoint which does not fit.

    Example:
        >>> import torch
        >>> backbone = pyramid_backbone("resnet18", strides=(8, 16, 32), out_channels=64)
        >>> [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 64, 96)).values()]
        [(1, 64, 8, 12), (1, 64, 4, 6), (1, 64, 2, 3), (1, 64, 1, 2)]

    References:
        Feature Pyramid Networks (arXiv 1612.03144), section 3.
    """
    trunk = as_trunk(trunk)
    built = build_trunk(trunk)
    _check_strides(strides, built, trunk.network)
    channels = [built.channels[built.strides.index(stride)] for stride in strides]
    wanted = _deformable(built.network)
    backbone = PyramidBackbone(built.body(strides), channels, strides, out_channels)
    backbone.image_mean, backbone.image_std = pixel_statistics(built.network)
    if _deformable(backbone) < wanted:
        rule = f"must choose convolutions that the maps at strides {tuple(strides)} are made by"
        fail("deform", rule, repr(trunk.deform), "choose earlier stages, or add strides")
    trunk.convert_by_name(backbone)
    return backbone


def _deformable(network: nn.Module) -> int:
    return sum(isinstance(module, DeformConv2d) for module in network.modules())


def _check_strides(strides: Sequence[int], built: StagedNetwork, name: str) -> None:
    unknown = [stride for stride in strides if stride not in built.strides]
    if unknown or list(strides) != sorted(set(strides)) or not strides:
        rule = f"must be rising strides of {name}'s stages {built.strides}"
        fail("strides", rule, tuple(strides), "use e.g. (4, 8, 16, 32)")
