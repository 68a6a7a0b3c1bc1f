# SPDX-License-Identifier: Apache-2.0
"""The thresholds of a finished detector: read, and changed."""

from __future__ import annotations

from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads

from pliant.detection.parts import Thresholds


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
