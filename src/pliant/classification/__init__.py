# SPDX-License-Identifier: Apache-2.0
"""Classification networks of torchvision and timm with deformable layers, in training form."""

from __future__ import annotations

from .classifier import Classifier as Classifier
from .classifier import classifier as classifier
from .head import replace_head as replace_head
