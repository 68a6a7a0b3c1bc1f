# SPDX-License-Identifier: Apache-2.0
"""RoI pooling in plain PyTorch, one overridable method for each decision: what is right, and what mutants are made of.

It runs in the dtype under test, so it also is the yardstick of the error budget. All samples of all bins are held at
once, in tensors (R, K, Ph, Pw, S_y, S_x): R boxes, K classes (1 in `deform_roi_pool`), S samples along a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from helpers.pooling.cases import RoIArguments, RoICase

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Line(NamedTuple):
    """The samples along one axis, (R, K, Ph, Pw, S)."""

    position: Tensor
    read: Tensor
    low: Tensor
    high: Tensor
    fraction: Tensor
    slope: Tensor  # whether moving the position moves what is read
    place: Tensor  # t: position = (1 - t) * begin + t * end, without rounding
    extent: Tensor  # (R, 1, 1, 1)


class PlainRoIPool:
    """`deform_roi_pool`."""

    gap = 1.0  # a position this far outside the border pixels is still read

    def __init__(self, case: RoICase) -> None:
        self.case = case

    # -- positions -------------------------------------------------------------------------------------------------
    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        begin = boxes[:, 2 - axis] * self.case.scale - 0.5
        return begin, boxes[:, 4 - axis] * self.case.scale - 0.5

    def extent(self, begin: Tensor, end: Tensor) -> Tensor:
        return end - begin

    def grid(self, extent: Tensor, axis: int) -> Tensor:
        if self.case.samples > 0:
            return torch.full_like(extent, self.case.samples)
        return (extent / self.case.bins[axis]).ceil().clamp(0)

    def shift(self, a: RoIArguments, axis: int, dtype: torch.dtype) -> Tensor:
        """Return the offset of each bin along `axis`, (R, K, Ph, Pw)."""
        if a.offset is None:
            return torch.zeros(1, 1, 1, 1, dtype=dtype)
        return self.of_bins(a.offset.to(dtype)[:, 1 - axis :: 2])

    def of_bins(self, maps: Tensor) -> Tensor:
        """Return what each bin takes of `maps` (R, K, part_h, part_w)."""
        rows, columns = (self.part_of_bin(axis) for axis in (0, 1))
        return maps[:, :, rows][:, :, :, columns]

    def part_of_bin(self, axis: int) -> Tensor:
        return torch.arange(self.case.bins[axis]) * self.case.maps[axis] // self.case.bins[axis]

    def in_bin(self, sample: Tensor) -> Tensor:
        return sample + 0.5

    def unit(self, extent: Tensor, other: Tensor) -> Tensor:
        """Return what offsets are measured in, of the extents along the axis and along the other one."""
        return self.case.gamma * extent

    def line(self, a: RoIArguments, axis: int) -> Line:
        dtype = torch.promote_types(a.input.dtype, torch.float32)
        size, bins = a.input.shape[2 + axis], self.case.bins[axis]
        begin, end = self.corners(a.boxes, axis)
        extent, other = (self.extent(*self.corners(a.boxes, i)) for i in (axis, 1 - axis))
        alive = begin.isfinite() & end.isfinite() & extent.isfinite()
        begin, extent, other, alive = (
            torch.where(alive, t, 0).view(-1, 1, 1, 1) for t in (begin, extent, other, alive)
        )
        grid = self.grid(extent, axis)
        shift = self.shift(a, axis, dtype)
        alive, shift = alive.bool() & shift.isfinite(), torch.where(shift.isfinite(), shift, 0)
        number = torch.arange(bins, dtype=dtype).view((-1, 1) if axis == 0 else (1, -1))
        sample = torch.arange(int(grid.max()), dtype=dtype)
        start = begin + self.unit(extent, other) * shift + number * (extent / bins)
        inside_bin = self.in_bin(sample) / grid.clamp(min=1).unsqueeze(-1)
        position = start.unsqueeze(-1) + inside_bin * (extent / bins).unsqueeze(-1)
        place = self.case.gamma * shift.unsqueeze(-1) + (number.unsqueeze(-1) + inside_bin) / bins
        read = alive.unsqueeze(-1) & (sample < grid.unsqueeze(-1)) & self.is_near(position, size)
        position = torch.where(read, position, 0)
        held = self.hold(position, size)
        low, high = self.neighbours(held, size)
        return Line(position, read, low, high, held - low, self.moves(position, size), place, extent)

    def is_near(self, position: Tensor, size: int) -> Tensor:
        return (position >= -self.gap) & (position <= size - 1 + self.gap)

    def hold(self, position: Tensor, size: int) -> Tensor:
        return position.clamp(0, size - 1)

    def neighbours(self, held: Tensor, size: int) -> tuple[Tensor, Tensor]:
        low = held.floor()
        return low.long(), (low + 1).clamp(max=size - 1).long()

    def moves(self, position: Tensor, size: int) -> Tensor:
        return (position >= 0) & (position < size - 1)

    # -- pixels ----------------------------------------------------------------------------------------------------
    def image(self, boxes: Tensor) -> Tensor:
        return boxes[:, 0].long()

    def channel(self) -> Tensor:
        """Return the input channel that each output channel reads in each bin, (O, Ph, Pw)."""
        group = self.case.group
        rows, columns = (torch.arange(b) * group // b for b in self.case.bins)
        outputs = torch.arange(self.case.channels).view(-1, 1, 1)
        return (outputs * group + rows.view(-1, 1)) * group + columns

    def by_class(self, t: Tensor) -> Tensor:
        """Split (O, ...) or (R, O, ...) into classes: (..., K, O/K, ...)."""
        return t.unflatten(-3, (self.case.classes, -1))

    def index(self, a: RoIArguments, row: Tensor, column: Tensor) -> tuple[Tensor, ...]:
        """Return how to index `input` for (R, K, Ph, Pw, S_y, S_x, O/K)."""
        image = self.image(a.boxes).view(-1, 1, 1, 1, 1, 1, 1)
        channel = self.by_class(self.channel()).movedim(1, -1)[None, ..., None, None, :]  # (1, K, Ph, Pw, 1, 1, O/K)
        return image, channel, row[..., :, None, None], column[..., None, :, None]

    def corner(self, y: Line, x: Line, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Return the weights along y and along x of a corner."""
        w_y, w_x = y.fraction if i else 1 - y.fraction, x.fraction if j else 1 - x.fraction
        return w_y[..., :, None, None], w_x[..., None, :, None]

    def live(self, y: Line, x: Line) -> Tensor:
        return (y.read[..., :, None] & x.read[..., None, :]).unsqueeze(-1)

    def values(self, a: RoIArguments, y: Line, x: Line) -> list[Tensor]:
        """Return the four pixels of each sample, (R, K, Ph, Pw, S_y, S_x, O/K)."""
        live, wide = self.live(y, x), y.fraction.dtype
        return [
            torch.where(live, a.input[self.index(a, (y.low, y.high)[i], (x.low, x.high)[j])].to(wide), 0)
            for i, j in CORNERS
        ]

    # -- forward and backward ------------------------------------------------------------------------------------
    def divisor(self, a: RoIArguments, y: Line, x: Line) -> Tensor:
        """Return n of each bin, (R, K, Ph, Pw, 1)."""
        grids = [self.grid(x_.extent, axis) for axis, x_ in ((0, y), (1, x))]
        return (grids[0] * grids[1]).clamp(min=1).unsqueeze(-1)

    def mask(self, a: RoIArguments, dtype: torch.dtype) -> Tensor:
        ones = torch.ones(1, 1, 1, 1, 1, dtype=dtype)
        return ones if a.mask is None else self.of_bins(a.mask.to(dtype)).unsqueeze(-1)

    def mean(self, values: list[Tensor], y: Line, x: Line, divisor: Tensor) -> Tensor:
        weights = [self.corner(y, x, i, j) for i, j in CORNERS]
        total = sum((v * w_y * w_x for v, (w_y, w_x) in zip(values, weights, strict=True)), torch.zeros(()))
        return total.sum((4, 5)) / divisor

    def run(self, case: RoICase, a: RoIArguments, upstream: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the output and the gradients by name."""
        y, x = self.line(a, 0), self.line(a, 1)
        values, n = self.values(a, y, x), self.divisor(a, y, x)
        mask, mean = self.mask(a, y.fraction.dtype), self.mean(values, y, x, n)  # (R, K, Ph, Pw, O/K)
        output = (mean * mask).movedim(-1, 2).flatten(1, 2).to(a.input.dtype)
        u = self.by_class(upstream.to(mean.dtype)).movedim(2, -1)
        gradients = self.gradients(a, y, x, values, u, self.pull(u, mask, n), mean)
        return output, {name: gradients[name] for name in case.differentiable}

    def pull(self, u: Tensor, mask: Tensor, divisor: Tensor) -> Tensor:
        """Return the gradient of each sample of a bin."""
        return u * mask / divisor

    def gradients(
        self, a: RoIArguments, y: Line, x: Line, values: list[Tensor], u: Tensor, pull: Tensor, mean: Tensor
    ) -> dict[str, Tensor]:
        spread = pull[..., None, None, :]  # (R, K, Ph, Pw, 1, 1, O/K)
        slope_y, slope_x = self.slopes(values, y, x)
        d_y, d_x = (spread * slope_y).sum((5, 6)), (spread * slope_x).sum((4, 6))  # (R, K, Ph, Pw, S)
        d_y, d_x = d_y * y.slope, d_x * x.slope
        found = {"input": self.grad_input(a, y, x, spread), "boxes": self.grad_boxes(a, (y, d_y), (x, d_x))}
        if a.offset is not None:
            found["offset"] = self.grad_offset(a.offset, (y, d_y), (x, d_x))
        if a.mask is not None:
            found["mask"] = self.to_parts(self.grad_mask(u, mean)).to(a.mask.dtype)
        return found

    def slopes(self, values: list[Tensor], y: Line, x: Line) -> tuple[Tensor, Tensor]:
        l_y, l_x = y.fraction[..., :, None, None], x.fraction[..., None, :, None]
        v1, v2, v3, v4 = values
        return (1 - l_x) * (v3 - v1) + l_x * (v4 - v2), (1 - l_y) * (v2 - v1) + l_y * (v4 - v3)

    def grad_mask(self, u: Tensor, mean: Tensor) -> Tensor:
        return (u * mean).sum(-1)

    def grad_offset(self, offset: Tensor, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        units = (self.unit(y[0].extent, x[0].extent), self.unit(x[0].extent, y[0].extent))
        maps = [self.to_parts(unit * d.sum(-1)) for unit, d in ((units[1], x[1]), (units[0], y[1]))]
        return torch.stack(maps, 2).flatten(1, 2).to(offset.dtype)

    def to_parts(self, grad: Tensor) -> Tensor:
        part_h, part_w = self.case.maps
        rows = torch.zeros(*grad.shape[:2], part_h, grad.shape[3], dtype=grad.dtype)
        rows.index_add_(2, self.part_of_bin(0), grad)
        return torch.zeros(*grad.shape[:2], part_h, part_w, dtype=grad.dtype).index_add_(3, self.part_of_bin(1), rows)

    def grad_boxes(self, a: RoIArguments, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        found = torch.zeros(a.boxes.shape, dtype=a.boxes.dtype)
        for axis, (line, d) in enumerate((y, x)):
            by_end = (d * line.place).flatten(1).sum(1)
            found[:, 2 - axis], found[:, 4 - axis] = self.at_corners(d.flatten(1).sum(1), by_end)
        return found * self.case.scale

    def at_corners(self, total: Tensor, by_end: Tensor) -> tuple[Tensor, Tensor]:
        return total - by_end, by_end

    def grad_input(self, a: RoIArguments, y: Line, x: Line, spread: Tensor) -> Tensor:
        result = torch.zeros(a.input.shape, dtype=spread.dtype)
        for i, j in CORNERS:
            w_y, w_x = self.corner(y, x, i, j)
            part = torch.where(self.live(y, x), spread * w_y * w_x, 0)
            self.scatter(result, self.index(a, (y.low, y.high)[i], (x.low, x.high)[j]), part)
        return result.to(a.input.dtype)

    def scatter(self, result: Tensor, index: tuple[Tensor, ...], part: Tensor) -> None:
        result.index_put_(tuple(t.expand_as(part) for t in index), part, accumulate=True)


class PlainPSRoIPool(PlainRoIPool):
    """`deform_ps_roi_pool`."""

    gap = 0.5

    def round(self, corner: Tensor) -> Tensor:
        return corner.sign() * (corner.abs() + 0.5).floor()

    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        begin = self.round(boxes[:, 2 - axis]) * self.case.scale - 0.5
        return begin, (self.round(boxes[:, 4 - axis]) + 1) * self.case.scale - 0.5

    def extent(self, begin: Tensor, end: Tensor) -> Tensor:
        return (end - begin).clamp(min=0.1)

    def in_bin(self, sample: Tensor) -> Tensor:
        return sample

    def neighbours(self, held: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return held.floor().long(), held.ceil().long()

    def moves(self, position: Tensor, size: int) -> Tensor:
        return (position > 0) & (position < size - 1)

    def divisor(self, a: RoIArguments, y: Line, x: Line) -> Tensor:
        return self.live(y, x).sum((4, 5)).clamp(min=1)

    def grad_boxes(self, a: RoIArguments, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        return torch.zeros(a.boxes.shape, dtype=a.boxes.dtype)


def model_of(case: RoICase) -> PlainRoIPool:
    """Return the plain implementation of a case's operator."""
    return PlainRoIPool(case) if case.operator == "plain" else PlainPSRoIPool(case)
