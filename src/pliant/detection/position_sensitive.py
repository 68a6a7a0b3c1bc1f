# SPDX-License-Identifier: Apache-2.0
"""R-FCN: position-sensitive score maps, (deformable) position-sensitive RoI pooling, a vote of the bins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from pliant._check import fail
from pliant.backbones import Trunk
from pliant.detection.box_heads import BoxHeads
from pliant.detection.dilated import STRIDE, DilatedBackbone, as_dilated, image_transform, initialise
from pliant.detection.parts import AnchorOptions, SecondStage, Thresholds
from pliant.detection.proposals import conv4_proposals
from pliant.nn import DeformPSRoIPool
from pliant.ops import deform_ps_roi_pool

ROI_BINS = 7
REDUCTION_CHANNELS, REDUCTION_LR_SCALE = 1024, 3.0
POOLS = ("align", "deform")
RFCN_SECOND_STAGE = SecondStage(samples_per_bin=4, roi_samples=128, ohem=128, train_proposals=300, proposals=300)


def rfcn(
    num_classes: int,
    backbone: str | Trunk | DilatedBackbone = "resnet101",
    *,
    second_stage: SecondStage = RFCN_SECOND_STAGE,
    class_agnostic: bool = True,
    background_iou: float = 0.0,
    rpn_channels: int = 512,
    anchors: AnchorOptions = AnchorOptions(sizes=(64, 128, 256, 512)),
    min_size: int | Sequence[int] = 600,
    max_size: int = 1000,
    thresholds: Thresholds = Thresholds(nms=0.3),
) -> GeneralizedRCNN:
    """Return R-FCN as the v1 paper and the official code have it; the defaults are the official ones for COCO.

    The region proposal network stands on conv4. On conv5, after a 1x1 convolution to 1024 channels, 1x1 convolutions
    make 7x7 score maps for each class and for the boxes; regions are pooled from them, and the mean of a region's bins
    is its class scores and boxes. No layer works on single regions.

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(..., reduction_channels=1024, reduction_lr_scale=3.0)`, or its trunk, or
            the name of that.
        second_stage: `roi_pool` is `align` (position-sensitive pooling by the same samples, without offsets) or
            `deform`; with `ohem` None, `roi_samples` regions are sampled at random instead.
        class_agnostic: one box for all classes, or one for each.
        background_iou: least overlap with a box of regions trained on as background.
        rpn_channels: width of the proposal network's 3x3 convolution.
        anchors: of each cell of conv4.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in evaluation) ...
        max_size: ... unless the long side would have more than these.
        thresholds: which boxes are detections.

    Raises:
        PliantError: an argument out of its range, or a backbone that does not fit.

    Example:
        >>> from pliant.backbones import Trunk
        >>> from pliant.detection import dilated_backbone
        >>> trunk = Trunk("resnet18", deform="c5", modulated=False)
        >>> model = rfcn(3, dilated_backbone(trunk, reduction_channels=64), min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    References:
        R-FCN (arXiv 1605.06409); Deformable Convolutional Networks (arXiv 1703.06211), sections 2.2 and 2.3.
    """
    backbone = as_dilated(backbone, num_classes, REDUCTION_CHANNELS, REDUCTION_LR_SCALE)
    if second_stage.roi_pool not in POOLS:
        rule = f"must be one of {', '.join(POOLS)} in R-FCN"
        fail("roi_pool", rule, repr(second_stage.roi_pool), "use 'deform'")
    boxes = 2 if class_agnostic else num_classes
    heads = BoxHeads(
        PositionSensitivePool(backbone.out_channels, num_classes, boxes, second_stage),
        nn.Identity(),
        Vote(num_classes),
        roi_samples=second_stage.roi_samples,
        ohem=second_stage.ohem,
        class_agnostic=class_agnostic,
        background_iou=background_iou,
        thresholds=thresholds,
    )
    rpn = conv4_proposals(backbone, anchors, rpn_channels, second_stage)
    return GeneralizedRCNN(backbone, rpn, heads, image_transform(backbone, min_size, max_size))


class PositionSensitivePool(nn.Module):
    """Score maps on `c5` and position-sensitive pooling of them: regions (R, (C+1) + 4*boxes, 7, 7).

    `scores` and `boxes` are the official code's `rfcn_cls` and `rfcn_bbox`; `score_pool.conv_offset` and
    `box_pool.conv_offset` its `rfcn_cls_offset_t` (an offset for each class) and `rfcn_bbox_offset_t` (one for all).
    """

    def __init__(self, in_channels: int, num_classes: int, boxes: int, stage: SecondStage) -> None:
        super().__init__()
        self.scores = nn.Conv2d(in_channels, num_classes * ROI_BINS**2, 1)
        self.boxes = nn.Conv2d(in_channels, 4 * boxes * ROI_BINS**2, 1)
        initialise(self.scores)
        initialise(self.boxes)
        self.score_pool = _pool(in_channels, num_classes, num_classes, stage)
        self.box_pool = _pool(in_channels, 4 * boxes, 1, stage)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object) -> Tensor:
        """Return the pooled scores and, after them in the channels, the pooled box deltas of each region."""
        shared = features["c5"]
        scores = self.score_pool(self.scores(shared), shared, boxes)
        deltas = self.box_pool(self.boxes(shared), shared, boxes)
        return torch.cat([scores, deltas], dim=1)


class PSRoIPool(nn.Module):
    """Position-sensitive pooling as `DeformPSRoIPool`, with the same samples and call; its bins do not move."""

    def __init__(self, output_channels: int, samples_per_bin: int) -> None:
        super().__init__()
        self.output_channels, self.samples_per_bin = output_channels, samples_per_bin

    def forward(self, scores: Tensor, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """Return the pooled scores (R, output_channels, 7, 7); the features are not looked at."""
        return deform_ps_roi_pool(
            scores,
            boxes,
            ROI_BINS,
            self.output_channels,
            spatial_scale=1 / STRIDE,
            group_size=ROI_BINS,
            samples_per_bin=self.samples_per_bin,
        )


class Vote(nn.Module):
    """The means of regions' bins (R, K, 7, 7) as their class logits and box deltas."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and deltas."""
        votes = pooled.mean(dim=(2, 3))
        return votes[:, : self.num_classes], votes[:, self.num_classes :]


def _pool(in_channels: int, output_channels: int, classes: int, stage: SecondStage) -> nn.Module:
    samples = stage.samples_per_bin
    if stage.roi_pool == "align":
        return PSRoIPool(output_channels, samples)
    return DeformPSRoIPool(ROI_BINS, in_channels, output_channels, 1 / STRIDE, classes=classes, samples_per_bin=samples)
