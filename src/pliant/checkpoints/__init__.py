# SPDX-License-Identifier: Apache-2.0
"""Other libraries' state dicts turned into pliant's, key by key."""

from __future__ import annotations

from pliant.checkpoints.convert import CONVERTERS as CONVERTERS
from pliant.checkpoints.convert import convert_checkpoint as convert_checkpoint
from pliant.checkpoints.convert import fit as fit
from pliant.checkpoints.draft import Conversion as Conversion
