# SPDX-License-Identifier: Apache-2.0
"""DeepLab on a deformable trunk, as in the v1 paper and its official code."""

from __future__ import annotations

from pliant.segmentation.model import DeepLab, deeplab, undilate_offset_branches, upsample_scores

__all__ = [
    "DeepLab",
    "deeplab",
    "undilate_offset_branches",
    "upsample_scores",
]
