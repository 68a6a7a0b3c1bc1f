# SPDX-License-Identifier: Apache-2.0
"""Overlapping tiles for photographs too large for one pass, and the boxes of the tiles as those of the photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pliant._check import fail

Window = tuple[int, int, int, int]
# A box that ends so near to the border of its tile, in pixels, is taken for one that the border cuts.
_AT_BORDER = 2.0


def tiles(height: int, width: int, size: int, overlap: int) -> list[Window]:
    """Return windows (x1, y1, x2, y2), row by row, that cover a photograph, all of one size and overlapping.

    Args:
        height: of the photograph, pixels.
        width: of the photograph, pixels.
        size: side of a window, pixels; a photograph smaller than that is taken whole on that axis.
        overlap: at least this many pixels are shared; more than the largest object, so that each is whole somewhere.

    Raises:
        PliantError: a side that is not positive, or an overlap outside [0, size).

    Example:
        >>> tiles(4, 10, size=6, overlap=1)
        [(0, 0, 6, 4), (4, 0, 10, 4)]
    """
    if min(height, width, size) < 1:
        fail("tiles", "height, width and size must be positive", (height, width, size), "give sizes in pixels")
    if not 0 <= overlap < size:
        fail("overlap", f"must be from 0 to {size - 1}", overlap, "use a quarter of the size for instance")
    columns, rows = _starts(width, size, overlap), _starts(height, size, overlap)
    return [(x, y, min(x + size, width), min(y + size, height)) for y in rows for x in columns]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where windows begin along one axis: evenly spread, the last one ending with the photograph."""
    if length <= size:
        return [0]
    gaps = -(-(length - size) // (size - overlap))
    return [i * (length - size) // gaps for i in range(gaps + 1)]


def join_tiles(
    outputs: Sequence[Mapping[str, Tensor]], windows: Sequence[Window], overlap: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the boxes of all windows in pixels of the photograph, without those that a window's border cuts.

    A box that ends at the border of its window, inside the photograph, and is shorter than `overlap` across that border
    is left out: a neighbour sees the object whole. Nothing is suppressed.

    Args:
        outputs: one for each window: `boxes` (L, 4) in the window's pixels, `scores` (L,), `labels` (L,).
        windows: from `tiles`.
        overlap: as given to `tiles`.

    Returns:
        `boxes`, `scores` and `labels` of the photograph, and the index of each box's window (L,).

    Raises:
        PliantError: no outputs, or not one for each window.

    Example:
        >>> one = {"scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        >>> left = {"boxes": torch.tensor([[4.0, 0, 6, 3]]), **one}  # the part of an object that is in this window
        >>> right = {"boxes": torch.tensor([[0.0, 0, 3, 3]]), **one}
        >>> found, window = join_tiles([left, right], tiles(4, 10, size=6, overlap=2), overlap=4)
        >>> found["boxes"].tolist(), window.tolist()
        ([], [])
    """
    if not windows or len(outputs) != len(windows):
        fail("outputs", "must be one for each window", f"{len(outputs)} for {len(windows)}", "detect on every window")
    # Windows that begin at 0 or end with the photograph have no neighbour on that side.
    right, bottom = max(window[2] for window in windows), max(window[3] for window in windows)
    boxes, kept, origin = [], [], []
    for number, (output, (x1, y1, x2, y2)) in enumerate(zip(outputs, windows, strict=True)):
        own = output["boxes"] + output["boxes"].new_tensor([x1, y1, x1, y1])
        sides = ((0, x1, x1 > 0), (1, y1, y1 > 0), (2, x2, x2 < right), (3, y2, y2 < bottom))
        cut = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        for side, border, inside in sides:
            length = own[:, side % 2 + 2] - own[:, side % 2]
            cut |= inside & ((own[:, side] - border).abs() <= _AT_BORDER) & (length < overlap)
        boxes.append(own)
        kept.append(~cut)
        origin.append(torch.full((len(own),), number, device=own.device))
    keep = torch.cat(kept)
    found = {name: torch.cat([output[name] for output in outputs])[keep] for name in ("scores", "labels")}
    return {"boxes": torch.cat(boxes)[keep], **found}, torch.cat(origin)[keep]
