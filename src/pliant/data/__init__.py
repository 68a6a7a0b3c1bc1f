# SPDX-License-Identifier: Apache-2.0
"""Readers of images with boxes, label maps or classes, safe image reading, and the transforms of training."""

from __future__ import annotations

from pliant._labels import IGNORE
from pliant.data.classification import ClassificationDataset, classification_transforms, open_classification
from pliant.data.detection import DetectionDataset, detection_transforms, open_detection
from pliant.data.image_dataset import ImageDataset
from pliant.data.images import UnreadableImageError, read_image
from pliant.data.label_maps import read_label_map, write_label_map
from pliant.data.published import published_categories
from pliant.data.records import Category, ImageInfo
from pliant.data.report import DataReport, Problem
from pliant.data.segmentation import SegmentationDataset, open_segmentation, segmentation_transforms
from pliant.data.transforms import Transform, collate, eval_transforms
from pliant.data.videos import VIDEO_EXTENSIONS, video_frames

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
    "VIDEO_EXTENSIONS",
    "classification_transforms",
    "collate",
    "detection_transforms",
    "eval_transforms",
    "open_classification",
    "open_detection",
    "open_segmentation",
    "published_categories",
    "read_image",
    "read_label_map",
    "segmentation_transforms",
    "video_frames",
    "write_label_map",
]
