# SPDX-License-Identifier: Apache-2.0
"""Images with one class each: a folder for each class."""

from __future__ import annotations

from pliant.data.classification.dataset import ClassificationDataset
from pliant.data.classification.open import open_classification
from pliant.data.classification.transforms import classification_transforms

__all__ = [
    "ClassificationDataset",
    "open_classification",
    "classification_transforms",
]
