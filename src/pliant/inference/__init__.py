# SPDX-License-Identifier: Apache-2.0
"""How a trained detector predicts: one pass or many views, tiles, what becomes of overlapping boxes, masks."""

from __future__ import annotations

from pliant.inference.detector import Inference, detection_predictor
from pliant.inference.masks import has_masks, mask_cells, unpasted, with_masks
from pliant.inference.suppression import average_boxes, suppress
from pliant.inference.tiling import join_tiles, tiles
from pliant.inference.views import candidates

__all__ = [
    "Inference",
    "average_boxes",
    "candidates",
    "detection_predictor",
    "has_masks",
    "join_tiles",
    "mask_cells",
    "suppress",
    "tiles",
    "unpasted",
    "with_masks",
]
