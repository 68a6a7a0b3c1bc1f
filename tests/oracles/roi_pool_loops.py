# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling in NumPy float64, one sampling point at a time, for both of its definitions.

*Aligned* is RoIAlign with a shift for each bin (DCNv1, arXiv 1703.06211, Eq. 6; sampled as in mmcv), *official* is the
DeformablePSROIPooling of the papers' code. A sample is a sum over all pixels q of hat(q, p) x(q), as in DCNv1 Eq. 3-4,
at a position that was first held inside the image. How a position follows its box and its offset is found by asking it
at two places one apart: it is affine in each of them, and fractions answer exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from oracles.deform_conv2d_loops import hat, hat_right_slope

Array = npt.NDArray[np.float64]
MAX_GRID = 32768


@dataclass
class Axis:
    """Where one sample stands along one axis, and how far it goes when begin, end or offset go one further."""

    at: float
    by_begin: float
    by_end: float
    by_offset: float


@dataclass
class Bin:
    """One bin of one box for one class: what it reads, what it writes, and where its learned numbers stand."""

    box: int
    image: int
    place: tuple[int, int]
    inputs: list[int]
    outputs: list[int]
    offset_x: tuple[int, int, int, int]
    mask: tuple[int, int, int, int]
    divisor: int
    points: list[tuple[Axis, Axis]] = field(default_factory=list)  # (y, x)


Bins = Callable[..., Iterator[Bin]]
Number = TypeVar("Number", float, Fraction)


@dataclass(frozen=True)
class Definition:
    """What tells the two operators apart once their bins are known."""

    bins: Bins
    margin_low: float  # positions from -margin_low ...
    margin_high: float  # ... to size - 1 + margin_high are read
    right_hand: bool  # the slope on a pixel is the right-hand one; otherwise 0
    counts_all: bool


def forward(
    definition: Definition, x: Array, boxes: Array, offset: Array | None, mask: Array | None, **o: Any
) -> Array:
    """Return the pooled boxes (R, O, Ph, Pw)."""
    y = np.zeros((len(boxes), o.get("output_channels", x.shape[1]), *o["output_size"]))
    for b in definition.bins(x, boxes, offset, mask, **o):
        read = [p for p in b.points if _is_read(definition, x, p)]
        n = b.divisor if definition.counts_all else len(read)
        for p in read:
            value = x[b.image, b.inputs] @ _hold(x, p, 1) @ _hold(x, p, 0)
            y[b.box, b.outputs, b.place[0], b.place[1]] += (1.0 if mask is None else mask[b.mask]) / n * value
    return y


def backward(
    definition: Definition, u: Array, x: Array, boxes: Array, offset: Array | None, mask: Array | None, **o: Any
) -> dict[str, Array]:
    """Return the gradients of sum(u * y) with respect to input, boxes, offset and mask."""
    found = {"input": np.zeros_like(x), "boxes": np.zeros_like(boxes)}
    found |= {name: np.zeros_like(t) for name, t in (("offset", offset), ("mask", mask)) if t is not None}
    for b in definition.bins(x, boxes, offset, mask, **o):
        read = [p for p in b.points if _is_read(definition, x, p)]
        n = b.divisor if definition.counts_all else len(read)
        up = u[b.box, b.outputs, b.place[0], b.place[1]]
        for p in read:
            hat_y, hat_x, pixels = _hold(x, p, 0), _hold(x, p, 1), x[b.image, b.inputs]
            if mask is not None:
                found["mask"][b.mask] += up @ (pixels @ hat_x @ hat_y) / n
            pull = up / n * (1.0 if mask is None else mask[b.mask])
            found["input"][b.image, b.inputs] += pull[:, None, None] * np.outer(hat_y, hat_x)
            slopes = (
                pull @ (pixels @ hat_x @ _slope(definition, x, p, 0)),
                pull @ (pixels @ _slope(definition, x, p, 1) @ hat_y),
            )
            for axis, slope in enumerate(slopes):
                if offset is not None:
                    r, channel, i, j = b.offset_x
                    found["offset"][r, channel + 1 - axis, i, j] += slope * p[axis].by_offset
                found["boxes"][b.box, 2 - axis] += slope * p[axis].by_begin
                found["boxes"][b.box, 4 - axis] += slope * p[axis].by_end
    return found


# --- RoIAlign with shifted bins ---------------------------------------------------------------------------------------


def aligned_bins(
    x: Array, boxes: Array, offset: Array | None, mask: Array | None, *, output_size: tuple[int, int],
    spatial_scale: float, sampling_ratio: int, gamma: float,
) -> Iterator[Bin]:  # fmt: skip
    """Yield the bins that read something."""
    channels = list(range(x.shape[1]))
    for r, (i, j) in ((r, k) for r in range(len(boxes)) for k in np.ndindex(*output_size)):
        if not np.isfinite(boxes[r, 1:] * spatial_scale).all():
            continue
        grids, lines = [], []
        for axis in (0, 1):
            ends = boxes[r, 2 - axis] * spatial_scale - 0.5, boxes[r, 4 - axis] * spatial_scale - 0.5
            count, k = output_size[axis], (i, j)[axis]
            grid = (
                sampling_ratio if sampling_ratio > 0 else min(max(math.ceil((ends[1] - ends[0]) / count), 0), MAX_GRID)
            )
            move = 0.0 if offset is None else float(offset[r, 1 - axis, i, j])
            place = _aligned_place(k, count, grid, gamma)
            grids.append(grid)
            lines.append([_affine(place(s), *ends, move, spatial_scale) for s in range(grid)])
        found = Bin(r, math.floor(boxes[r, 0] + 0.5), (i, j), channels, channels, (r, 0, i, j), (r, 0, i, j),
                    max(grids[0] * grids[1], 1))  # fmt: skip
        found.points = [(y, x_) for y in lines[0] for x_ in lines[1]]
        yield found


def _aligned_place(k: int, count: int, grid: int, gamma: float) -> Callable[[int], Callable[..., float]]:
    """Return for sample s of bin k the function from (begin, end, offset) to its position."""

    def of_sample(s: int) -> Callable[..., float]:
        def position(begin: Number, end: Number, move: Number) -> Number:
            number = type(begin)  # fractions stay exact, and floats keep the order of operations
            size: Any = end - begin
            return begin + number(gamma) * size * move + k * (size / count) + number(s + 0.5) * (size / count) / grid

        return position

    return of_sample


# --- the papers' code -------------------------------------------------------------------------------------------------


def official_bins(
    x: Array, boxes: Array, offset: Array | None, mask: Array | None, *, output_size: tuple[int, int],
    output_channels: int, spatial_scale: float, group_size: int, part_size: tuple[int, int], samples_per_bin: int,
    gamma: float,
) -> Iterator[Bin]:  # fmt: skip
    """Yield the bins of every class that read something."""
    classes = offset.shape[1] // 2 if offset is not None else mask.shape[1] if mask is not None else 1
    for r, (i, j), c in (
        (r, k, c) for r in range(len(boxes)) for k in np.ndindex(*output_size) for c in range(classes)
    ):
        if not np.isfinite(boxes[r, 1:] * spatial_scale).all():
            continue
        part = tuple(math.floor((i, j)[a] * part_size[a] / output_size[a]) for a in (0, 1))
        group = [min(math.floor((i, j)[a] * group_size / output_size[a]), group_size - 1) for a in (0, 1)]
        lines = []
        for axis in (0, 1):
            begin = _round(boxes[r, 2 - axis]) * spatial_scale - 0.5
            size = max((_round(boxes[r, 4 - axis]) + 1) * spatial_scale - 0.5 - begin, 0.1)
            move = 0.0 if offset is None else float(offset[r, 2 * c + 1 - axis, part[0], part[1]])
            k, count = (i, j)[axis], output_size[axis]
            start = k * (size / count) + begin + move * gamma * size
            line = [start + s * (size / count / samples_per_bin) for s in range(samples_per_bin)]
            lines.append([Axis(at, 0.0, 0.0, gamma * size) for at in line])  # rounding: boxes have no slope
        outputs = [o for o in range(output_channels) if o // (output_channels // classes) == c]
        inputs = [(o * group_size + group[0]) * group_size + group[1] for o in outputs]
        found = Bin(r, math.floor(boxes[r, 0] + 0.5), (i, j), inputs, outputs, (r, 2 * c, *part), (r, c, *part), 0)
        found.points = [(y, x_) for y in lines[0] for x_ in lines[1]]
        yield found


def _round(value: float) -> float:
    """Round halves away from zero, as C does."""
    with localcontext() as context:
        context.prec = 1000
        return float(Decimal(float(value)).quantize(Decimal(1), rounding=ROUND_HALF_UP))


ALIGNED = Definition(aligned_bins, 1.0, 1.0, right_hand=True, counts_all=True)
OFFICIAL = Definition(official_bins, 0.5, 0.5, right_hand=False, counts_all=False)


# --- one point --------------------------------------------------------------------------------------------------------


def _affine(position: Callable[..., float], begin: float, end: float, move: float, scale: float) -> Axis:
    """Return the position and its slopes in the offset and in the box's own numbers, which `scale` multiplies."""
    at = position(begin, end, move)
    if not math.isfinite(at):
        return Axis(at, 0.0, 0.0, 0.0)
    b, e, m = Fraction(begin), Fraction(end), Fraction(move)
    by_begin = position(b + 1, e, m) - position(b, e, m)
    by_end = position(b, e + 1, m) - position(b, e, m)
    by_offset = position(b, e, m + 1) - position(b, e, m)
    return Axis(at, float(by_begin) * scale, float(by_end) * scale, float(by_offset))


def _is_read(definition: Definition, x: Array, point: tuple[Axis, Axis]) -> bool:
    sizes = x.shape[2:]
    return all(
        -definition.margin_low <= p.at <= sizes[axis] - 1 + definition.margin_high for axis, p in enumerate(point)
    )


def _hold(x: Array, point: tuple[Axis, Axis], axis: int) -> Array:
    """Return hat(q, p) for all pixels q along `axis`, with p held between the first and the last."""
    size = x.shape[2 + axis]
    return hat(np.arange(size, dtype=np.float64), min(max(point[axis].at, 0.0), size - 1.0))


def _slope(definition: Definition, x: Array, point: tuple[Axis, Axis], axis: int) -> Array:
    """Return the derivative of `_hold` with respect to the position."""
    size, at = x.shape[2 + axis], point[axis].at
    if at < 0 or at >= size - 1 or (not definition.right_hand and at == math.floor(at)):
        return np.zeros(size)
    return hat_right_slope(np.arange(size, dtype=np.float64), at)
