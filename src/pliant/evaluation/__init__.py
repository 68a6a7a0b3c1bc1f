# SPDX-License-Identifier: Apache-2.0
"""Predictions in COCO form, and the COCO metric of a set of them."""

from __future__ import annotations

from pliant.evaluation.coco_metric import CocoMetrics, evaluate_detections
from pliant.evaluation.results import coco_results, load_results, save_results
from pliant.evaluation.tiling import merge_tiles, tiles

__all__ = [
    "CocoMetrics",
    "coco_results",
    "evaluate_detections",
    "load_results",
    "merge_tiles",
    "save_results",
    "tiles",
]
