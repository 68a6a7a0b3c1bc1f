# SPDX-License-Identifier: Apache-2.0
"""Readers for COCO json and Pascal VOC folders, safe image reading, and the transforms of training."""

from __future__ import annotations

from pliant.data.dataset import DetectionDataset
from pliant.data.images import UnreadableImageError, read_image
from pliant.data.open import open_dataset
from pliant.data.records import Category, ImageInfo
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Transform, collate, eval_transforms, train_transforms

__all__ = [
    "Category",
    "DataReport",
    "DetectionDataset",
    "ImageInfo",
    "Problem",
    "Transform",
    "UnreadableImageError",
    "collate",
    "eval_transforms",
    "open_dataset",
    "read_image",
    "train_transforms",
]
