# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution, v1 and v2."""

from pliant.ops._deform_conv2d.api import deform_conv2d

__all__ = [
    "deform_conv2d",
]
