# SPDX-License-Identifier: Apache-2.0
"""Layers with their own offset branch."""

from pliant.nn.deform_conv import DeformConv2d
from pliant.nn.deform_ps_roi_pool import DeformPSRoIPool
from pliant.nn.deform_roi_pool import DeformRoIPool

__all__ = [
    "DeformConv2d",
    "DeformPSRoIPool",
    "DeformRoIPool",
]
