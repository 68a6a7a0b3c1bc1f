# SPDX-License-Identifier: Apache-2.0
"""Overlapping tiles for photographs too large for one pass, and the detections of the tiles as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from pliant._check import fail

Window = tuple[int, int, int, int]


def tiles(height: int, width: int, size: int, overlap: int) -> list[Window]:
    """Return windows that cover a photograph, all of one size; neighbours share at least `overlap` pixels.

    Args:
        height: of the photograph, pixels.
        width: of the photograph, pixels.
        size: side of a window, pixels; a photograph smaller than that is taken whole on that axis.
        overlap: at least this many pixels are shared; more than the largest object, so that each is whole somewhere.

    Returns:
        Windows (x1, y1, x2, y2), row by row.

    Raises:
        ValueError: a side that is not positive, or an overlap outside [0, size).

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


def merge_tiles(
    outputs: Sequence[Mapping[str, Tensor]],
    windows: Sequence[Window],
    *,
    iou_threshold: float = 0.5,
    max_detections: int | None = None,
) -> dict[str, Tensor]:
    """Shift the detections of each window to the photograph and suppress doubles class by class.

    Args:
        outputs: of a torchvision detector, one for each window: `boxes` (L, 4) in the window's pixels, `scores` (L,),
            `labels` (L,).
        windows: from `tiles`.
        iou_threshold: of two boxes of a class that overlap more than this, the one with the lower score goes.
        max_detections: keep the best this many; None keeps all.

    Returns:
        `boxes`, `scores` and `labels` of the photograph, best first.

    Raises:
        ValueError: no outputs, or not one for each window.

    Example:
        >>> one = {"scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        >>> left = {"boxes": torch.tensor([[4.0, 0, 6, 3]]), **one}
        >>> right = {"boxes": torch.tensor([[0.0, 0, 2, 3]]), **one}  # the same object, seen from x = 4 on
        >>> merge_tiles([left, right], tiles(4, 10, size=6, overlap=2))["boxes"].tolist()
        [[4.0, 0.0, 6.0, 3.0]]
    """
    if not windows or len(outputs) != len(windows):
        fail("outputs", "must be one for each window", f"{len(outputs)} for {len(windows)}", "detect on every window")
    pairs = zip(outputs, windows, strict=True)
    boxes = torch.cat([o["boxes"] + o["boxes"].new_tensor([x, y, x, y]) for o, (x, y, _, _) in pairs])  # (L, 4)
    scores, labels = (torch.cat([output[name] for output in outputs]) for name in ("scores", "labels"))
    kept = batched_nms(boxes, scores, labels, iou_threshold)[:max_detections]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
