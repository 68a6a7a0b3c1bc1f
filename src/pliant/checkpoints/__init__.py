# SPDX-License-Identifier: Apache-2.0
"""Other libraries' state dicts turned into pliant's, key by key."""

from __future__ import annotations

from pliant.checkpoints.convert import CONVERTERS, convert_checkpoint, fit
from pliant.checkpoints.draft import Conversion

__all__ = [
    "CONVERTERS",
    "convert_checkpoint",
    "fit",
    "Conversion",
]
