# SPDX-License-Identifier: Apache-2.0
"""Images with boxes, and masks of objects: COCO json and Pascal VOC."""

from __future__ import annotations

from pliant.data.detection.dataset import DetectionDataset
from pliant.data.detection.open import open_detection
from pliant.data.detection.transforms import detection_transforms

__all__ = [
    "DetectionDataset",
    "open_detection",
    "detection_transforms",
]
