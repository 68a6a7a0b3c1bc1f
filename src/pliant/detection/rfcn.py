# SPDX-License-Identifier: Apache-2.0
"""R-FCN: position-sensitive score maps, (deformable) position-sensitive RoI pooling, a vote of the bins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from pliant._check import fail
from pliant.detection.box_heads import BoxHeads
from pliant.detection.dilated import STRIDE, DilatedBackbone, as_dilated, image_transform, initialise
from pliant.detection.proposals import MapProposals, ProposalHead, map_anchors
from pliant.nn import DeformPSRoIPool
from pliant.ops import deform_ps_roi_pool

ROI_BINS = 7
REDUCTION_CHANNELS, REDUCTION_LR_SCALE = 1024, 3.0
SAMPLES_PER_BIN = 4  # along each axis, in the official code
POOLS = ("align", "deform")


def rfcn(
    num_classes: int,
    backbone: str | DilatedBackbone = "resnet101",
    *,
    roi_pool: str = "align",
    rpn_channels: int = 512,
    anchor_sizes: Sequence[float] = (64, 128, 256, 512),
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    roi_samples: int = 128,
    ohem: int | None = 128,
    class_agnostic: bool = True,
    background_iou: float = 0.0,
    min_size: int | Sequence[int] = 600,
    max_size: int = 1000,
    train_proposals: int = 300,
    proposals: int = 300,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.3,
    max_detections: int = 100,
) -> GeneralizedRCNN:
    """Return R-FCN as the v1 paper and the official code have it; the defaults are the official ones for COCO.

    The region proposal network stands on conv4. On conv5, after a 1x1 convolution to 1024 channels, 1x1 convolutions
    make 7x7 score maps for each class and for the boxes; regions are pooled from them, and the mean of a region's bins
    is its class scores and boxes. No layer works on single regions.

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(..., reduction_channels=1024, reduction_lr_scale=3.0)`, or the name of
            one.
        roi_pool: `align` (position-sensitive pooling by the same samples, without offsets) or `deform`.
        rpn_channels: width of the proposal network's 3x3 convolution.
        anchor_sizes: sides in pixels of the (resized) image of the square anchors of a cell ...
        anchor_ratios: ... each in each ratio of height to width.
        roi_samples: without OHEM: regions per image on which the second stage is trained, a quarter foreground.
        ohem: train on these many hardest of all proposals; None samples `roi_samples` at random instead.
        class_agnostic: one box for all classes, or one for each.
        background_iou: least overlap with a box of regions trained on as background.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in tests) ...
        max_size: ... unless the long side would have more than these.
        train_proposals: regions per image handed to the second stage in training ...
        proposals: ... and in tests.
        score_threshold: detections with a lower score are dropped (0..1).
        nms_threshold: of two boxes of a class that overlap by more than this IoU the lower score is dropped.
        max_detections: most detections per image.

    Raises:
        PliantError: an argument out of its range, or a backbone that does not fit.

    Example:
        >>> from pliant.detection import dilated_backbone
        >>> backbone = dilated_backbone("resnet18", deform="c5", modulated=False, reduction_channels=64)
        >>> model = rfcn(3, backbone, min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    References:
        R-FCN (arXiv 1605.06409); Deformable Convolutional Networks (arXiv 1703.06211), sections 2.2 and 2.3.
    """
    backbone = as_dilated(backbone, num_classes, REDUCTION_CHANNELS, REDUCTION_LR_SCALE)
    anchors = map_anchors(anchor_sizes, anchor_ratios)
    if roi_pool not in POOLS:
        fix = "use 'deform'"
        fail("roi_pool", f"must be one of {', '.join(POOLS)} in R-FCN", repr(roi_pool), fix)
    boxes = 2 if class_agnostic else num_classes
    heads = BoxHeads(
        PositionSensitivePool(backbone.out_channels, num_classes, boxes, deform=roi_pool == "deform"),
        Vote(),
        _Split(num_classes),
        roi_samples=roi_samples,
        ohem=ohem,
        class_agnostic=class_agnostic,
        background_iou=background_iou,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
    )
    rpn = MapProposals(
        "c4",
        ProposalHead(backbone.proposal_channels, anchors.num_anchors_per_location()[0], rpn_channels),
        anchors,
        train_proposals=train_proposals,
        proposals=proposals,
    )
    return GeneralizedRCNN(backbone, rpn, heads, image_transform(backbone, min_size, max_size))


class PositionSensitivePool(nn.Module):
    """Score maps on `c5` and position-sensitive pooling of them: regions (R, (C+1) + 4*boxes, 7, 7).

    `scores` and `boxes` are the official code's `rfcn_cls` and `rfcn_bbox`; `score_pool.conv_offset` and
    `box_pool.conv_offset` its `rfcn_cls_offset_t` (an offset for each class) and `rfcn_bbox_offset_t` (one for all).
    """

    def __init__(self, in_channels: int, num_classes: int, boxes: int, *, deform: bool) -> None:
        super().__init__()
        self.scores = nn.Conv2d(in_channels, num_classes * ROI_BINS**2, 1)
        self.boxes = nn.Conv2d(in_channels, 4 * boxes * ROI_BINS**2, 1)
        initialise(self.scores)
        initialise(self.boxes)
        self.score_pool = _pool(in_channels, num_classes, num_classes, deform)
        self.box_pool = _pool(in_channels, 4 * boxes, 1, deform)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object) -> Tensor:
        """Return the pooled scores and, after them in the channels, the pooled box deltas of each region."""
        shared = features["c5"]
        scores = self.score_pool(self.scores(shared), shared, boxes)
        deltas = self.box_pool(self.boxes(shared), shared, boxes)
        return torch.cat([scores, deltas], dim=1)


class PSRoIPool(nn.Module):
    """Position-sensitive pooling as `DeformPSRoIPool`, with the same samples and call, but bins that stay."""

    def __init__(self, output_channels: int) -> None:
        super().__init__()
        self.output_channels = output_channels

    def forward(self, scores: Tensor, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """Return the pooled scores (R, output_channels, 7, 7); the features are not looked at."""
        return deform_ps_roi_pool(
            scores,
            boxes,
            ROI_BINS,
            self.output_channels,
            spatial_scale=1 / STRIDE,
            group_size=ROI_BINS,
            samples_per_bin=SAMPLES_PER_BIN,
        )


class Vote(nn.Module):
    """The mean of a region's bins: (R, K, 7, 7) to (R, K)."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the mean."""
        return pooled.mean(dim=(2, 3))


class _Split(nn.Module):
    """A region's votes to its class logits and its box deltas."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        return votes[:, : self.num_classes], votes[:, self.num_classes :]


def _pool(in_channels: int, output_channels: int, classes: int, deform: bool) -> nn.Module:
    if not deform:
        return PSRoIPool(output_channels)
    return DeformPSRoIPool(
        ROI_BINS, in_channels, output_channels, 1 / STRIDE, classes=classes, samples_per_bin=SAMPLES_PER_BIN
    )
