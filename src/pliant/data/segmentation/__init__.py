# SPDX-License-Identifier: Apache-2.0
"""Images with a label for each pixel: Pascal VOC, Cityscapes and paired folders."""

from __future__ import annotations

from pliant.data.segmentation.dataset import SegmentationDataset
from pliant.data.segmentation.open import open_segmentation
from pliant.data.segmentation.transforms import segmentation_transforms

__all__ = [
    "SegmentationDataset",
    "open_segmentation",
    "segmentation_transforms",
]
