# SPDX-License-Identifier: Apache-2.0
"""Overlapping tiles for photographs too large for one pass, and the detections of the tiles as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def tiles(height: int, width: int, size: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Return windows (x1, y1, x2, y2) that cover a photograph; neighbours share at least `overlap` pixels."""
    raise NotImplementedError


def merge_tiles(
    outputs: Sequence[Mapping[str, Tensor]],
    windows: Sequence[tuple[int, int, int, int]],
    *,
    iou_threshold: float = 0.5,
    max_detections: int | None = None,
) -> dict[str, Tensor]:
    """Shift the detections of each window to the photograph and suppress doubles class by class."""
    raise NotImplementedError
