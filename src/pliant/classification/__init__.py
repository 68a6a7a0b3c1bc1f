# SPDX-License-Identifier: Apache-2.0
"""Classification networks of torchvision and timm with deformable layers, in training form."""

from __future__ import annotations

from pliant.classification.model import Classifier, classifier, replace_head

__all__ = [
    "Classifier",
    "classifier",
    "replace_head",
]
