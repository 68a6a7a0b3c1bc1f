# SPDX-License-Identifier: Apache-2.0
"""Masks of objects: COCO's polygons and run lengths, checked before anything is made of them, and back.

Masks are kept as COCO's compressed run lengths, some hundred bytes for an object, and unpacked when an image is read.
The coding itself is faster-coco-eval's. Its C++ code trusts what it is given, so files of strangers are checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pliant._check import require_package
from pliant._files import finite

# A run length in compressed counts is written in groups of 5 bits; 8 of them hold more than any image has pixels.
_MAX_GROUPS = 8
# Filling polygons takes some 80 bytes for each pixel of their edges; an outline through every tenth pixel of a
# photograph of 10 megapixels is as long.
_MAX_EDGE = 2**20


class BadMaskError(ValueError):
    """A segmentation that cannot be used; its text says why in a few words."""


def encode_segmentation(segmentation: object, height: int, width: int) -> bytes:
    """Turn COCO's `segmentation` of an object into compressed run lengths.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, ...] in pixels, or {"size": [height, width], "counts": ...}
            with run lengths as a list of integers or as COCO's compressed text.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        BadMaskError: it is neither, or does not fit the image.

    Example:
        >>> triangle = encode_segmentation([[1, 1, 5, 1, 1, 5]], 6, 8)
        >>> int(decode_masks([triangle], 6, 8).sum())
        6
    """
    if isinstance(segmentation, dict):
        return _checked_counts(segmentation, height, width)
    polygons = _polygons(segmentation)
    for polygon in polygons:
        if fault := _fault(polygon, height, width):
            raise BadMaskError(fault)
    edge = sum(_edge(polygon) for polygon in polygons)
    if edge > _MAX_EDGE:
        raise BadMaskError(f"polygons with edges of {edge:.0f} pixels in all")
    runs = _coder().frPyObjects([[float(value) for value in polygon] for polygon in polygons], height, width)
    merged: bytes = _coder().merge(runs)["counts"]
    return merged


def good_parts(segmentation: object, height: int, width: int) -> tuple[object, str | None]:
    """Return COCO's `segmentation` without the polygons that cannot be used, and what is wrong with the first of those.

    Raises:
        BadMaskError: nothing is left.

    Example:
        >>> good_parts([[1, 1, 5, 1, 1, 5], [2, 2]], 6, 8)
        ([[1, 1, 5, 1, 1, 5]], 'a polygon of 2 numbers')
    """
    if isinstance(segmentation, dict):
        return segmentation, None
    faults = [(polygon, _fault(polygon, height, width)) for polygon in _polygons(segmentation)]
    good = [polygon for polygon, fault in faults if not fault]
    first = next((fault for _, fault in faults if fault), None)
    if not good:
        raise BadMaskError(first or "")
    return good, first


def encode_masks(masks: Tensor) -> list[bytes]:
    """Turn masks (L, H, W), whose pixels are true or 1 in the object, into compressed run lengths."""
    pixels = masks.to(device="cpu", dtype=torch.uint8).permute(1, 2, 0).numpy()  # (H, W, L)
    if not len(masks):
        return []
    return [run["counts"] for run in _coder().encode(np.asfortranarray(pixels))]


def decode_masks(runs: Sequence[bytes], height: int, width: int) -> Tensor:
    """Turn compressed run lengths, as the functions above return them, into masks (L, H, W) uint8 of 0 and 1."""
    masks = torch.empty(len(runs), height, width, dtype=torch.uint8)
    for mask, counts in zip(masks, runs, strict=True):  # one by one, so that nothing is there twice
        mask.copy_(torch.from_numpy(_coder().decode({"size": [height, width], "counts": counts})))
    return masks


def mask_corners(runs: bytes, height: int, width: int) -> tuple[float, ...]:
    """Return the box around a mask in compressed run lengths: x1, y1, x2, y2; without area where it is empty."""
    x, y, box_width, box_height = _coder().toBbox([{"size": [height, width], "counts": runs}])[0].tolist()
    return (x, y, x + box_width, y + box_height)


def mask_area(runs: bytes, height: int, width: int) -> float:
    """Return the pixels of a mask in compressed run lengths."""
    return float(_coder().area({"size": [height, width], "counts": runs}))


def coco_segmentation(runs: bytes, height: int, width: int) -> dict[str, Any]:
    """Return compressed run lengths as a `segmentation` for COCO json."""
    return {"size": [height, width], "counts": runs.decode("ascii")}


def _coder() -> Any:
    return require_package("faster_coco_eval.core.mask", "train", "reading masks")


def _polygons(segmentation: object) -> list[Any]:
    if not isinstance(segmentation, list) or not segmentation:
        raise BadMaskError("neither polygons nor run lengths")
    return segmentation


def _fault(polygon: object, height: int, width: int) -> str | None:
    """Say what is wrong with a polygon: fewer than three points, or far outside, which costs memory to follow."""
    if not isinstance(polygon, list) or any(finite(value) is None for value in polygon):
        return "a polygon that is no list of finite numbers"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"a polygon of {len(polygon)} numbers"
    for values, side in ((polygon[0::2], width), (polygon[1::2], height)):
        if min(values) < -side or max(values) > 2 * side:
            return "a polygon far outside the image"
    return None


def _edge(polygon: list[float]) -> float:
    """Return how many pixels the coding of a polygon walks along, one at least for each edge."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    return float((steps + 1).sum())


def _checked_counts(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    """Return compressed run lengths of counts that are not negative and together as many as the image has pixels."""
    if segmentation.get("size") != [height, width]:
        raise BadMaskError(f"run lengths of a mask of another size than {height}x{width}")
    given = segmentation.get("counts")
    if isinstance(given, bytes):  # coded by a reader of pliant, since json has none
        return given
    counts = _uncompressed(given) if isinstance(given, str) else given
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise BadMaskError("run lengths that are no list of integers from 0")
    if sum(counts) != height * width:
        raise BadMaskError(f"run lengths of {min(sum(counts), 10**18)} pixels in place of {height * width}")
    if isinstance(given, str):
        return given.encode("ascii")
    encoded: bytes = _coder().frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return encoded


def _uncompressed(text: str) -> list[int]:
    """Read COCO's compressed counts: 6-bit characters from '0', 5 bits of a number in each, the lowest first.

    The sixth bit says that more of the number follow, the fifth of its last character is the sign. From the fourth
    number on, each is the difference to the one before the last.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0) + 1  # past the last character of each number
    starts = np.concatenate([[0], ends[:-1]])
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or ends[-1:].tolist() != [len(codes)]:
        raise BadMaskError("run lengths in a text that is not COCO's, or is cut off")
    lengths = ends - starts
    if lengths.max() > _MAX_GROUPS:
        raise BadMaskError("run lengths that no image has")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= (codes[ends - 1] >> 4 & 1) << 5 * lengths
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    counts: list[int] = numbers.tolist()
    return counts
