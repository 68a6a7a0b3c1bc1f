# SPDX-License-Identifier: Apache-2.0
"""How a trained detector predicts; `pliant eval` and `pliant predict` take these options too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import MOST_PIXELS, Options, option


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(Options):
    """How predictions are made and counted."""

    TITLE: ClassVar[str] = "inference (docs/inference.md)"
    ONLY: ClassVar[tuple[str, ...]] = ("detection",)

    score_threshold: float | None = option(None, "least score of a detection, 0..1; default 0.05", minimum=0)
    nms_threshold: float | None = option(
        None,
        "overlap (IoU) above which the box with the lower score is dropped; default the model's, 0.5 or 0.3",
        minimum=0,
    )
    nms: Literal["hard", "linear", "gaussian"] = option(
        "hard", "overlapping boxes are dropped, or lose score: Soft-NMS, linear or gaussian"
    )
    soft_nms_sigma: float = option(0.5, "width of gaussian Soft-NMS", minimum=0.001)
    test_scales: tuple[int, ...] | None = option(
        None,
        "predict at several sizes and put the boxes together: short sides in pixels",
        minimum=32,
        maximum=MOST_PIXELS,
    )
    test_max_size: int | None = option(
        None,
        "limit of the long side at all of --test-scales; default in proportion to --max-size",
        minimum=32,
        maximum=MOST_PIXELS,
    )
    test_flip: bool = option(False, "predict on the mirror image too")
    tile: int | None = option(
        None,
        "predict on overlapping tiles of so many pixels a side, for photographs with small objects; a quarter is "
        "shared by neighbours",
        minimum=64,
    )
    box_averaging: int = option(
        0, "rounds of moving each box to the mean of the boxes around it (v1 paper, Table 5, B)", minimum=0
    )
    box_averaging_iou: float = option(0.5, "overlap from which a box is around another", minimum=0)
    counted_detections: int | None = option(
        None,
        "detections of an image and category that count in the metric; default 100 as in COCO, or --max-detections "
        "if that is higher",
        minimum=10,
        maximum=100000,
    )
