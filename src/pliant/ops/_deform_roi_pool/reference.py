# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling as the papers write it, sampled as in RoIAlign: what every kernel is checked against.

For the bin k = (i, j) of Ph x Pw, with the offset and modulation learned for it (v1, Eq. 6; v2, Eq. 2):

    y(k)    = dm_k / n * sum over samples p of the bin  x(p + dp_k),      dp_k = gamma * (w, h) * offset_k
    p       = (x1, y1) + (j * w / Pw, i * h / Ph) + ((s_x + 1/2) * w / (Pw * g_x), (s_y + 1/2) * h / (Ph * g_y))
    (x1, y1, x2, y2) = box * spatial_scale - 1/2,   (w, h) = (x2 - x1, y2 - y1),   n = max(g_x * g_y, 1)

with s_x < g_x and s_y < g_y. The grid is g = `sampling_ratio`, or ceil(w / Pw) by ceil(h / Ph), at most `MAX_GRID` a
side. x at a fractional position is bilinear, with positions in [-1, 0] held at the first pixel and those in
[size - 1, size] at the last; beyond, and where a position is not finite, it is 0 (and still counts in n).

The order of the operations below is part of the specification, because the grid's size and the test for -1 and `size`
are steps: kernels follow it, without fused multiply-add. Letters: R boxes, C channels, L samples along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from pliant._geometry import Pair
from pliant.ops._boxes import image_index
from pliant.ops._checks import compute_dtype
from pliant.ops._roi_samples import Axis, Grid, locate

MAX_GRID = 1 << 15  # samples along a side of a bin, where a box asks for its own number; bins of 32768 pixels


class Pooling(NamedTuple):
    """What is the same for all boxes."""

    output_size: Pair
    spatial_scale: float
    sampling_ratio: int
    gamma: float

    @classmethod
    def of(cls, output_size: Sequence[int], *rest: Any) -> Self:
        """Make it from the operator's attributes, in which a pair is any sequence."""
        return cls((output_size[0], output_size[1]), *rest)


class Positions(NamedTuple):
    """The sampling positions of all bins along one axis."""

    position: Tensor  # (R, Ph, Pw, L)
    within: Tensor  # (R, Ph, Pw, L): s, counted within the bin
    alive: Tensor  # (R, Ph, Pw, L): s < g, and box and offset are finite
    extent: Tensor  # (R, 1, 1): w or h
    shift: Tensor  # (R, Ph, Pw) or (R, 1, 1): the offset, 0 where it is not finite
    grid: Tensor  # (R, 1, 1): g


class BoxSamples(NamedTuple):
    """The samples of all bins, what their sum is divided by, and how they lie along the axes."""

    grid: Grid
    divisor: Tensor  # (R, 1, 1): n
    y: Positions
    x: Positions


def positions_along(
    axis: int, rois: Tensor, offset: Tensor | None, size: int, pooling: Pooling, dtype: torch.dtype
) -> Positions:
    """Return the sampling positions along `axis` (0 for y, 1 for x) of an image that has `size` pixels there."""
    bins = pooling.output_size[axis]
    corners = rois.to(dtype)[:, (2 - axis) :: 2] * pooling.spatial_scale - 0.5  # (R, 2): begin and end
    begin, extent = corners[:, 0], corners[:, 1] - corners[:, 0]
    finite = begin.isfinite() & extent.isfinite()
    begin, extent = (torch.where(finite, t, t.new_zeros(())).view(-1, 1, 1) for t in (begin, extent))
    shift = torch.zeros_like(extent) if offset is None else offset[:, 1 - axis].to(dtype)
    alive = finite.view(-1, 1, 1) & shift.isfinite()
    # An infinite factor would make NaN of a gradient that is 0. So bins whose unit of shift is infinite read nothing,
    # without gamma no offset counts, and one that is infinite in units of the box gives the box no gradient.
    unit = pooling.gamma * extent if offset is not None else extent
    alive = alive & unit.isfinite()
    unit = torch.where(unit.isfinite(), unit, unit.new_zeros(()))
    shift = torch.where(shift.isfinite(), shift, shift.new_zeros(())) * bool(pooling.gamma)
    moved = unit * shift
    moved = torch.where((pooling.gamma * shift).isfinite(), moved, moved.detach())
    if pooling.sampling_ratio > 0:
        grid = torch.full_like(extent, pooling.sampling_ratio)
    else:
        grid = (extent.detach() / bins).ceil().clamp(0, MAX_GRID)
    length = pooling.sampling_ratio if pooling.sampling_ratio > 0 else _longest(grid, size)

    number = torch.arange(bins, dtype=dtype, device=rois.device).view((-1, 1) if axis == 0 else (1, -1))
    bin_size = extent / bins
    start = begin + moved + number * bin_size  # (R, Ph, Pw)
    grid_or_1 = grid.clamp(min=1)
    # A large bin's first samples may all lie before the image; begin with the last two of those. Where the grid has
    # the box's own size and more than one sample, samples are more than half a pixel apart.
    step = (bin_size / grid_or_1).detach().clamp(min=0.5)
    before = ((-1 - start.detach()) / step - 1.5).floor().clamp(min=0)
    index = torch.minimum(before, (grid - length).clamp(min=0)).unsqueeze(-1) + torch.arange(
        length, dtype=dtype, device=rois.device
    )
    position = start.unsqueeze(-1) + (index + 0.5) * bin_size.unsqueeze(-1) / grid_or_1.unsqueeze(-1)
    return Positions(position, index, alive.unsqueeze(-1) & (index < grid.unsqueeze(-1)), extent, shift, grid)


def _longest(grid: Tensor, size: int) -> int:
    """Return how many samples along an axis to look at in each bin, so that none inside the image is missed.

    At most so many are inside, since they are more than half a pixel apart.
    """
    most = 2 * size + 6
    if torch.compiler.is_compiling() or functorch.is_functorch_wrapped_tensor(grid):
        return min(most, MAX_GRID)  # a graph must fit every box
    return min(most, int(grid.max())) if grid.numel() else 0


def _axis(positions: Positions, exists: Tensor, size: int) -> Axis:
    position = positions.position
    inside = positions.alive & (position >= -1) & (position <= size) & exists.view(-1, 1, 1, 1)
    return locate(position, inside, size, right_hand=True)


def sample(input: Tensor, rois: Tensor, offset: Tensor | None, pooling: Pooling) -> BoxSamples:
    """Return all samples of all bins."""
    N, C, H, W = input.shape
    dtype = compute_dtype(input)
    y = positions_along(0, rois, offset, H, pooling, dtype)
    x = positions_along(1, rois, offset, W, pooling, dtype)
    image, exists = image_index(rois, N)
    pixels = input.movedim(1, -1).reshape(N * H * W, C)
    grid = Grid(pixels, image.view(-1, 1, 1), W, H, _axis(y, exists, H), _axis(x, exists, W))
    return BoxSamples(grid, (y.grid * x.grid).clamp(min=1), y, x)


def deform_roi_pool_reference(
    input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling
) -> Tensor:
    """Return y (R, C, Ph, Pw) of the module's equation."""
    samples = sample(input, rois, offset, pooling)
    y = samples.grid.total() / samples.divisor.unsqueeze(-1)  # (R, Ph, Pw, C)
    if mask is not None:
        y = y * mask.to(y.dtype).movedim(1, -1)
    return y.movedim(-1, 1).to(input.dtype).contiguous()


def samples_per_box(rois: Tensor, size: Pair, pooling: Pooling) -> int:
    """Return how many samples `sample` looks at for each box, on maps of `size`."""
    axes = [positions_along(axis, rois, None, size[axis], pooling, rois.dtype).position for axis in (0, 1)]
    return pooling.output_size[0] * pooling.output_size[1] * axes[0].shape[-1] * axes[1].shape[-1]
