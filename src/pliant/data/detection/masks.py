# SPDX-License-Identifier: Apache-2.0
"""Masks of objects: COCO's polygons and run lengths, checked before anything is made of them, and back.

Masks are kept as COCO's compressed run lengths, some hundred bytes for an object, and unpacked when an image is read.
The coding itself is faster-coco-eval's. Its C++ code trusts what it is given, so files of strangers are checked here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pliant._check import require_package

# A run length in compressed counts is written in groups of 5 bits; 8 of them hold more than any image has pixels.
_MAX_GROUPS = 8


class BadMaskError(ValueError):
    """A segmentation that is none; its text says why in a few words."""


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
    coder = _coder()
    if isinstance(segmentation, dict):
        runs = {"size": [height, width], "counts": _checked_counts(segmentation, height, width)}
        encoded: bytes = coder.frPyObjects(runs, height, width)["counts"]
        return encoded
    polygons = _checked_polygons(segmentation, height, width)
    merged: bytes = coder.merge(coder.frPyObjects(polygons, height, width))["counts"]
    return merged


def encode_masks(masks: Tensor) -> list[bytes]:
    """Turn masks (L, H, W), whose pixels are true or 1 in the object, into compressed run lengths."""
    pixels = masks.to(device="cpu", dtype=torch.uint8).permute(1, 2, 0).numpy()  # (H, W, L)
    if not len(masks):
        return []
    return [run["counts"] for run in _coder().encode(np.asfortranarray(pixels))]


def decode_masks(runs: Sequence[bytes], height: int, width: int) -> Tensor:
    """Turn compressed run lengths, as the functions above return them, into masks (L, H, W) uint8 of 0 and 1."""
    if not runs:
        return torch.zeros(0, height, width, dtype=torch.uint8)
    pixels = _coder().decode([{"size": [height, width], "counts": counts} for counts in runs])  # (H, W, L)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def mask_area(runs: bytes, height: int, width: int) -> float:
    """Return the pixels of a mask in compressed run lengths."""
    return float(_coder().area({"size": [height, width], "counts": runs}))


def coco_segmentation(runs: bytes, height: int, width: int) -> dict[str, Any]:
    """Return compressed run lengths as a `segmentation` for COCO json."""
    return {"size": [height, width], "counts": runs.decode("ascii")}


def _coder() -> Any:
    return require_package("faster_coco_eval.core.mask", "train", "reading masks")


def _checked_polygons(segmentation: object, height: int, width: int) -> list[list[float]]:
    """Return polygons that have three points and stay near the image: what is far outside costs memory to follow."""
    if not isinstance(segmentation, list) or not segmentation:
        raise BadMaskError("neither polygons nor run lengths")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(_is_number(value) for value in polygon):
            raise BadMaskError("a polygon that is no list of finite numbers")
        if len(polygon) < 6 or len(polygon) % 2:
            raise BadMaskError(f"a polygon of {len(polygon)} numbers")
        for values, side in ((polygon[0::2], width), (polygon[1::2], height)):
            if min(values) < -side or max(values) > 2 * side:
                raise BadMaskError("a polygon far outside the image")
        polygons.append([float(value) for value in polygon])
    return polygons


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**53 if isinstance(value, int) else math.isfinite(value)


def _checked_counts(segmentation: dict[str, Any], height: int, width: int) -> list[int]:
    """Return run lengths that are not negative and together as many as the image has pixels."""
    if segmentation.get("size") != [height, width]:
        raise BadMaskError(f"run lengths of a mask of another size than {height}x{width}")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise BadMaskError("run lengths that are no list of integers from 0")
    if sum(counts) != height * width:
        raise BadMaskError(f"run lengths of {sum(counts)} pixels in place of {height * width}")
    return counts


def _uncompressed(text: str) -> list[int]:
    """Read COCO's compressed counts: 6-bit characters from '0', 5 bits of a number in each, the lowest first.

    The sixth bit says that more of the number follow, the fifth of its last character is the sign. From the fourth
    number on, each is the difference to the one before the last.
    """
    codes = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
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
