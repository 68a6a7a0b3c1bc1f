# SPDX-License-Identifier: Apache-2.0
"""Reading images of strangers: known formats only, bounded size, and one clear error for what is broken."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pliant._check import PliantError


class UnreadableImageError(PliantError):
    """An image file that is missing, broken, too large, or of a kind that has no agreed conversion to RGB."""


def read_image(path: Path | str, *, apply_exif: bool = True) -> Tensor:
    """Read an image file as uint8 RGB, (3, H, W)."""
    raise NotImplementedError
