# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN in the papers' form: proposals on conv4, RoI pooling on a dilated conv5, two fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import RoIAlign, RoIPool

from pliant._check import fail
from pliant.backbones import Trunk
from pliant.detection.box_heads import BoxHeads, BoxPredictor, MapRoIPool
from pliant.detection.dilated import STRIDE, DilatedBackbone, as_dilated, at_least_float32, image_transform, initialise
from pliant.detection.parts import AnchorOptions, SecondStage, Thresholds
from pliant.detection.proposals import conv4_proposals
from pliant.detection.pyramid_detectors import BOX_BINS, MASK_BINS, MASK_CHANNELS, MASK_LAYERS
from pliant.detection.roi_pools import ROI_POOLS
from pliant.nn import DeformRoIPool

REDUCTION_CHANNELS = 256
MAP_POOLS = (*ROI_POOLS, "max")


def faster_rcnn_dc5(
    num_classes: int,
    backbone: str | Trunk | DilatedBackbone = "resnet50",
    *,
    second_stage: SecondStage = SecondStage(),
    class_agnostic: bool = False,
    background_iou: float = 0.0,
    head_channels: int = 1024,
    mask_channels: int | None = None,
    rpn_channels: int = 512,
    anchors: AnchorOptions = AnchorOptions(sizes=(32, 64, 128, 256, 512)),
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    thresholds: Thresholds = Thresholds(),
) -> GeneralizedRCNN:
    """Return Faster R-CNN as both papers build it: no pyramid, one map of stride 16; Mask R-CNN with `mask_channels`.

    The region proposal network stands on conv4; regions are pooled to 7x7 bins from conv5 after a 1x1 convolution, and
    two fully connected layers give class scores and boxes. The defaults are the v2 paper's for its lower resolution;
    where it is silent (anchor sizes, long side) they are the usual ones.

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(...)`, or its trunk, or the name of that.
        second_stage: how regions are pooled (`max` too: the first rows of the v2 paper's tables) and chosen.
        class_agnostic: one box for all classes; the papers' Faster R-CNN has one for each.
        background_iou: least overlap with a box of regions trained on as background; 0.1 in the official v1 code.
        head_channels: width of the two fully connected layers.
        mask_channels: width of the mask head, 256 in Mask R-CNN, on 14x14 bins pooled as the boxes' are; targets then
            need `masks`, and `ohem` must be None. None: no masks.
        rpn_channels: width of the proposal network's 3x3 convolution.
        anchors: of each cell of conv4.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in evaluation) ...
        max_size: ... unless the long side would have more than these.
        thresholds: which boxes are detections.

    Raises:
        PliantError: an argument out of its range, or a backbone that does not fit.

    Example:
        >>> import torch
        >>> from pliant.backbones import Trunk
        >>> model = faster_rcnn_dc5(3, Trunk("resnet18", deform="c5"), min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3;
        Deformable ConvNets v2 (arXiv 1811.11168), sections 2.2 and 5.1.
    """
    backbone = as_dilated(backbone, num_classes, REDUCTION_CHANNELS)
    channels = backbone.out_channels
    head = TwoMLPHead(channels * BOX_BINS**2, head_channels)
    initialise(head.fc6)
    initialise(head.fc7)
    mask_parts: dict[str, Any] = {}
    if mask_channels is not None:
        mask_parts["mask_roi_pool"] = _roi_pool(second_stage, MASK_BINS, channels)
        mask_parts["mask_head"] = MaskRCNNHeads(channels, (mask_channels,) * MASK_LAYERS, dilation=1)
        mask_parts["mask_predictor"] = MaskRCNNPredictor(mask_channels, mask_channels, num_classes)
    heads = BoxHeads(
        _roi_pool(second_stage, BOX_BINS, channels),
        head,
        BoxPredictor(head_channels, num_classes, boxes=2 if class_agnostic else num_classes),
        roi_samples=second_stage.roi_samples,
        ohem=second_stage.ohem,
        class_agnostic=class_agnostic,
        background_iou=background_iou,
        thresholds=thresholds,
        **mask_parts,
    )
    rpn = conv4_proposals(backbone, anchors, rpn_channels, second_stage)
    return GeneralizedRCNN(backbone, rpn, heads, image_transform(backbone, min_size, max_size))


def mask_rcnn_dc5(
    num_classes: int,
    backbone: str | Trunk | DilatedBackbone = "resnet50",
    *,
    mask_channels: int = MASK_CHANNELS,
    **options: Any,
) -> GeneralizedRCNN:
    """Return Mask R-CNN in the v2 paper's form: `faster_rcnn_dc5` with a mask head.

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(...)`, or its trunk, or the name of that.
        mask_channels: width of the mask head.
        options: the other arguments of `faster_rcnn_dc5`; `second_stage` decides how boxes and masks are pooled.

    Example:
        >>> import torch
        >>> model = mask_rcnn_dc5(3, "resnet18", second_stage=SecondStage("deform"), min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'masks', 'scores']

    References:
        Mask R-CNN (arXiv 1703.06870); Deformable ConvNets v2 (arXiv 1811.11168), section 5.1.
    """
    return faster_rcnn_dc5(num_classes, backbone, mask_channels=mask_channels, **options)


def _roi_pool(stage: SecondStage, bins: int, channels: int) -> MapRoIPool:
    kind, samples = stage.roi_pool, stage.samples_per_bin
    if kind not in MAP_POOLS:
        fail("roi_pool", f"must be one of {', '.join(MAP_POOLS)}", repr(kind), "use 'modulated'")
    if kind == "max":
        return MapRoIPool("c5", _MaxRoIPool((bins, bins), 1 / STRIDE))
    if kind == "align":
        return MapRoIPool("c5", RoIAlign((bins, bins), 1 / STRIDE, samples, aligned=True))
    return MapRoIPool("c5", DeformRoIPool(bins, channels, 1 / STRIDE, samples, modulated=kind == "modulated"))


class _MaxRoIPool(RoIPool):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, which needs maps and boxes of one type, under autocast too."""

    def forward(self, input: Tensor, rois: list[Tensor]) -> Tensor:
        pooled: Tensor = super().forward(at_least_float32(input), rois)
        return pooled.to(input.dtype)
