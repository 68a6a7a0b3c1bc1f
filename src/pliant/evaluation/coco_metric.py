# SPDX-License-Identifier: Apache-2.0
"""The COCO metric, computed by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's twelve numbers and the AP of each category; -1 where a number is undefined, as COCO has it."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_category: dict[str, float] = field(default_factory=dict)
    max_detections: int = 100
    iou_type: str = "bbox"

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON."""
        raise NotImplementedError

    def table(self) -> str:
        """Return the COCO table as people know it, and the AP of each category."""
        raise NotImplementedError


def evaluate_detections(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    max_detections: int = 100,
) -> CocoMetrics:
    """Evaluate COCO `results` against a COCO `ground_truth`."""
    raise NotImplementedError
