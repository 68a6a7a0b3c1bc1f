# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling, v1 and v2, with bins and samples as in RoIAlign."""

from pliant.ops._deform_roi_pool.api import deform_roi_pool

__all__ = [
    "deform_roi_pool",
]
