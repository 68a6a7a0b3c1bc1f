# SPDX-License-Identifier: Apache-2.0
"""The demonstration: trees on aerial photographs, one site to train on and another to test on (`run.run_demo`)."""

from __future__ import annotations

from pliant.demo.shapes import Settings, Shapes, deformable, fit, network
from pliant.demo.silhouettes import read_silhouettes

__all__ = [
    "Settings",
    "Shapes",
    "deformable",
    "fit",
    "network",
    "read_silhouettes",
]
