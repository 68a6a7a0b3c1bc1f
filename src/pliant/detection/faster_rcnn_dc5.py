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
from pliant.detection.box_heads import BoxHeads, BoxPredictor, MapRoIPool
from pliant.detection.dilated import STRIDE, DilatedBackbone, as_dilated, at_least_float32, image_transform, initialise
from pliant.detection.faster_rcnn import BOX_BINS, MASK_BINS, MASK_LAYERS
from pliant.detection.proposals import MapProposals, ProposalHead, map_anchors
from pliant.detection.roi_pools import ROI_POOLS
from pliant.nn import DeformRoIPool

REDUCTION_CHANNELS = 256
MAP_POOLS = (*ROI_POOLS, "max")


def faster_rcnn_dc5(
    num_classes: int,
    backbone: str | DilatedBackbone = "resnet50",
    *,
    roi_pool: str = "align",
    roi_samples_per_bin: int = 2,
    head_channels: int = 1024,
    rpn_channels: int = 512,
    anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    roi_samples: int = 512,
    ohem: int | None = None,
    class_agnostic: bool = False,
    background_iou: float = 0.0,
    masks: bool = False,
    mask_channels: int = 256,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    train_proposals: int = 2000,
    proposals: int = 1000,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
) -> GeneralizedRCNN:
    """Return Faster R-CNN as both papers build it: no pyramid, one map of stride 16; Mask R-CNN with `masks`.

    The region proposal network stands on conv4; regions are pooled to 7x7 bins from conv5 after a 1x1 convolution, and
    two fully connected layers give class scores and boxes. The defaults are the v2 paper's for its lower resolution;
    where it is silent (anchor sizes, long side) they are the usual ones.

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(...)`, or the name of one.
        roi_pool: `align` (aligned RoI pooling, the papers' baseline), `deform` (v1), `modulated` (v2), or `max`, the
            maximum of each bin's cells, which reads no samples (the first rows of the v2 paper's tables).
        roi_samples_per_bin: samples along each axis of a bin; 2 in the v2 paper, 4 in the official v1 code.
        head_channels: width of the two fully connected layers.
        rpn_channels: width of the proposal network's 3x3 convolution.
        anchor_sizes: sides in pixels of the (resized) image of the square anchors of a cell ...
        anchor_ratios: ... each in each ratio of height to width.
        roi_samples: regions per image on which the second stage is trained (v1: 128), a quarter foreground.
        ohem: None, or train on these many hardest of all proposals instead.
        class_agnostic: one box for all classes; the papers' Faster R-CNN has one for each.
        background_iou: least overlap with a box of regions trained on as background; 0.1 in the official v1 code.
        masks: whether each detection gets a mask, from 14x14 bins pooled as the boxes' are; targets then need `masks`,
            and `ohem` is not to be had.
        mask_channels: width of the mask head.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in tests) ...
        max_size: ... unless the long side would have more than these.
        train_proposals: regions per image handed to the second stage in training ...
        proposals: ... and in tests (both 300 in the official v1 code).
        score_threshold: detections with a lower score are dropped (0..1).
        nms_threshold: of two boxes of a class that overlap by more than this IoU the lower score is dropped.
        max_detections: most detections per image.

    Raises:
        PliantError: an argument out of its range, or a backbone that does not fit.

    Example:
        >>> import torch
        >>> from pliant.detection import dilated_backbone
        >>> model = faster_rcnn_dc5(3, dilated_backbone("resnet18", deform="c5"), min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3;
        Deformable ConvNets v2 (arXiv 1811.11168), sections 2.2 and 5.1.
    """
    backbone = as_dilated(backbone, num_classes, REDUCTION_CHANNELS)
    anchors = map_anchors(anchor_sizes, anchor_ratios)
    channels = backbone.out_channels
    head = TwoMLPHead(channels * BOX_BINS**2, head_channels)
    initialise(head.fc6)
    initialise(head.fc7)
    mask_parts: dict[str, Any] = {}
    if masks:
        mask_parts["mask_roi_pool"] = _roi_pool(roi_pool, MASK_BINS, channels, roi_samples_per_bin)
        mask_parts["mask_head"] = MaskRCNNHeads(channels, (mask_channels,) * MASK_LAYERS, dilation=1)
        mask_parts["mask_predictor"] = MaskRCNNPredictor(mask_channels, mask_channels, num_classes)
    heads = BoxHeads(
        _roi_pool(roi_pool, BOX_BINS, channels, roi_samples_per_bin),
        head,
        BoxPredictor(head_channels, num_classes, boxes=2 if class_agnostic else num_classes),
        roi_samples=roi_samples,
        ohem=ohem,
        class_agnostic=class_agnostic,
        background_iou=background_iou,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
        **mask_parts,
    )
    rpn = MapProposals(
        "c4",
        ProposalHead(backbone.proposal_channels, anchors.num_anchors_per_location()[0], rpn_channels),
        anchors,
        train_proposals=train_proposals,
        proposals=proposals,
    )
    return GeneralizedRCNN(backbone, rpn, heads, image_transform(backbone, min_size, max_size))


def mask_rcnn_dc5(num_classes: int, backbone: str | DilatedBackbone = "resnet50", **options: Any) -> GeneralizedRCNN:
    """Return Mask R-CNN in the v2 paper's form: `faster_rcnn_dc5(..., masks=True)`.

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(...)`, or the name of one.
        options: the other arguments of `faster_rcnn_dc5`; `roi_pool` decides how boxes and masks are pooled.

    Example:
        >>> import torch
        >>> model = mask_rcnn_dc5(3, "resnet18", roi_pool="deform", min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'masks', 'scores']

    References:
        Mask R-CNN (arXiv 1703.06870); Deformable ConvNets v2 (arXiv 1811.11168), section 5.1.
    """
    return faster_rcnn_dc5(num_classes, backbone, **options, masks=True)


def _roi_pool(kind: str, bins: int, channels: int, samples: int) -> MapRoIPool:
    if kind not in MAP_POOLS:
        fail("roi_pool", f"must be one of {', '.join(MAP_POOLS)}", repr(kind), "use 'modulated'")
    if kind == "max":
        return MapRoIPool("c5", _MaxRoIPool((bins, bins), 1 / STRIDE))
    if kind == "align":
        return MapRoIPool("c5", RoIAlign((bins, bins), 1 / STRIDE, samples, aligned=True))
    return MapRoIPool("c5", DeformRoIPool(bins, channels, 1 / STRIDE, samples, modulated=kind == "modulated"))


class _MaxRoIPool(RoIPool):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, which wants maps and boxes of one type, under autocast too."""

    def forward(self, input: Tensor, rois: list[Tensor]) -> Tensor:
        pooled: Tensor = super().forward(at_least_float32(input), rois)
        return pooled.to(input.dtype)
