# SPDX-License-Identifier: Apache-2.0
"""Deformable position-sensitive RoI pooling, as the papers' own code computes it."""

from pliant.ops._deform_ps_roi_pool.api import deform_ps_roi_pool

__all__ = [
    "deform_ps_roi_pool",
]
