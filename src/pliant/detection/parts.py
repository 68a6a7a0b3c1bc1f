# SPDX-License-Identifier: Apache-2.0
"""The choices that detectors share, as small values: anchors, the second stage, what counts as a detection.

The last of them are read from a finished detector, and changed, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads


@dataclass(frozen=True)
class AnchorOptions:
    """The anchors of a cell, in pixels of the resized image.

    Attributes:
        sizes: sides of square anchors. A pyramid has one for each map, the extra one included, and None means 8 times
            the map's stride; a detector with one map has them all there.
        scales: factors on the sizes; there is an anchor for each of them ...
        ratios: ... and for each ratio of height to width, of the same area.
    """

    sizes: Sequence[float] | None = None
    scales: Sequence[float] = (1.0,)
    ratios: Sequence[float] = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class SecondStage:
    """The regions that the second stage of a detector works on.

    Attributes:
        roi_pool: how regions are pooled, for boxes (7x7 bins) and masks (14x14): `align` is RoIAlign, `deform`
            deformable RoI pooling (v1), `modulated` that with weights of the bins (v2), and `max`, without a pyramid,
            the maximum of each bin's cells. R-FCN has `align` and `deform`, position-sensitive.
        samples_per_bin: samples along each axis of a bin; 2 in the v2 paper, 4 in the official v1 code.
        roi_samples: regions of an image that train it, a quarter of them foreground; 128 in v1.
        ohem: None, or train on so many of all proposals with the highest loss instead.
        train_proposals: regions of an image that the first stage hands over in training ...
        proposals: ... and in evaluation. Both are 300 in the official v1 code.
    """

    roi_pool: str = "align"
    samples_per_bin: int = 2
    roi_samples: int = 512
    ohem: int | None = None
    train_proposals: int = 2000
    proposals: int = 1000


@dataclass(frozen=True)
class Thresholds:
    """What decides which boxes of a detector are its detections.

    Attributes:
        score: detections with a lower score are dropped (0..1).
        nms: of two boxes of a class that overlap by more than this IoU the one with the lower score is dropped.
        detections: most detections per image.
    """

    score: float = 0.05
    nms: float = 0.5
    detections: int = 100


def thresholds(model: GeneralizedRCNN) -> Thresholds:
    """Return the thresholds of a detector of two stages, or of one whose proposals are its detections.

    Args:
        model: one of `pliant.detection`, or torchvision's Faster or Mask R-CNN.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> thresholds(faster_rcnn(3, "resnet18", thresholds=Thresholds(detections=40)))
        Thresholds(score=0.05, nms=0.5, detections=40)
    """
    heads = model.roi_heads
    if isinstance(heads, RoIHeads):
        return Thresholds(heads.score_thresh, heads.nms_thresh, heads.detections_per_img)
    return Thresholds(model.rpn.score_thresh, model.rpn.nms_thresh, model.rpn._post_nms_top_n["testing"])


def set_thresholds(model: GeneralizedRCNN, to: Thresholds) -> None:
    """Give a detector other thresholds.

    Args:
        model: as for `thresholds`; changed in place.
        to: the thresholds.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = faster_rcnn(3, "resnet18")
        >>> set_thresholds(model, Thresholds(score=0.5, nms=0.3, detections=10))
        >>> model.roi_heads.score_thresh
        0.5
    """
    heads = model.roi_heads
    if isinstance(heads, RoIHeads):
        heads.score_thresh, heads.nms_thresh, heads.detections_per_img = to.score, to.nms, to.detections
    else:
        model.rpn.score_thresh, model.rpn.nms_thresh = to.score, to.nms
        model.rpn._post_nms_top_n = {**model.rpn._post_nms_top_n, "testing": to.detections}
