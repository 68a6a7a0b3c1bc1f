# SPDX-License-Identifier: Apache-2.0
"""Predictions in COCO form; the COCO metric, mean intersection over union, accuracy."""

from __future__ import annotations

from pliant.evaluation.accuracy import ClassificationMetrics, classification_metrics, rank_of_truth
from pliant.evaluation.coco_metric import CocoMetrics, InstanceMetrics, evaluate_detections, evaluate_instances
from pliant.evaluation.results import coco_results, load_results, save_results
from pliant.evaluation.semantic import SegmentationMetrics, confusion, segmentation_metrics

__all__ = [
    "ClassificationMetrics",
    "CocoMetrics",
    "InstanceMetrics",
    "SegmentationMetrics",
    "classification_metrics",
    "coco_results",
    "confusion",
    "evaluate_detections",
    "evaluate_instances",
    "load_results",
    "rank_of_truth",
    "save_results",
    "segmentation_metrics",
]
