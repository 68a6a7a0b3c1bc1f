# SPDX-License-Identifier: Apache-2.0
"""Readers of images with boxes, label maps or classes, safe image reading, and the transforms of training."""

from __future__ import annotations

from pliant.data.class_folders import ClassificationDataset, open_class_folders
from pliant.data.classification_transforms import classification_transforms
from pliant.data.dataset import DetectionDataset
from pliant.data.image_dataset import ImageDataset
from pliant.data.images import UnreadableImageError, read_image
from pliant.data.label_maps import IGNORE, read_label_map, write_label_map
from pliant.data.open import open_dataset
from pliant.data.published import published_categories
from pliant.data.records import Category, ImageInfo
from pliant.data.report import DataReport, Problem
from pliant.data.segmentation import SegmentationDataset, open_segmentation
from pliant.data.segmentation_transforms import segmentation_transforms
from pliant.data.transforms import Transform, collate, eval_transforms, train_transforms

__all__ = [
    "Category",
    "ClassificationDataset",
    "DataReport",
    "DetectionDataset",
    "IGNORE",
    "ImageDataset",
    "ImageInfo",
    "Problem",
    "SegmentationDataset",
    "Transform",
    "UnreadableImageError",
    "classification_transforms",
    "collate",
    "eval_transforms",
    "open_class_folders",
    "open_dataset",
    "open_segmentation",
    "published_categories",
    "read_image",
    "read_label_map",
    "segmentation_transforms",
    "train_transforms",
    "write_label_map",
]
