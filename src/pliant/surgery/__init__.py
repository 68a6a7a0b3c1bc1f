# SPDX-License-Identifier: Apache-2.0
"""Model surgery: put deformable convolutions into a model one already has, and take them out again."""

from pliant.surgery.conversion import convert, revert
from pliant.surgery.fusion import fuse
from pliant.surgery.optim import param_groups
from pliant.surgery.planning import Plan, Row, Skipped, plan
from pliant.surgery.select import Where

__all__ = [
    "convert",
    "revert",
    "fuse",
    "param_groups",
    "Plan",
    "Row",
    "Skipped",
    "plan",
    "Where",
]
