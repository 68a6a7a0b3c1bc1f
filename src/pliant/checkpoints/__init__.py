# SPDX-License-Identifier: Apache-2.0
"""Other libraries' state dicts turned into pliant's, key by key."""

from __future__ import annotations

from .convert import CONVERTERS as CONVERTERS
from .convert import convert_checkpoint as convert_checkpoint
from .convert import fit as fit
from .draft import Conversion as Conversion
