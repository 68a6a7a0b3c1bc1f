# SPDX-License-Identifier: Apache-2.0
"""Deformable ConvNets for PyTorch: operators, layers, model surgery, and the systems of the two papers."""

from pliant import nn, ops
from pliant._version import __version__
from pliant.surgery import convert, fuse, param_groups, plan, revert

__all__ = [
    "nn",
    "ops",
    "__version__",
    "convert",
    "fuse",
    "param_groups",
    "plan",
    "revert",
]
