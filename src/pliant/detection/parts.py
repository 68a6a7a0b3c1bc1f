# SPDX-License-Identifier: Apache-2.0
"""The choices that detectors share, as small values: anchors, the second stage, what counts as a detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
