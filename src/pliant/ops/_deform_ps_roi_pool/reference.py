# SPDX-License-Identifier: Apache-2.0
"""Deformable position-sensitive RoI pooling as the papers' own code computes it: what every kernel is checked against.

For the bin (i, j) of P_h x P_w and the output channel c of class k = c // (O / classes), with S samples along a side:

    y(c; i, j) = dm / n * sum over samples p of the bin that are read  x[(c*G + i*G // P_h)*G + j*G // P_w](p)
    p          = (x1, y1) + (j * w / P_w, i * h / P_h) + gamma * (w, h) * offset + (s_x * w / (P_w * S), s_y * ...)
    (x1, y1)   = (round(x1), round(y1)) * spatial_scale - 1/2,   (x2, y2) = (round(x2) + 1, ...) * spatial_scale - 1/2
    (w, h)     = max((x2 - x1, y2 - y1), 0.1)

where offset and dm are those of class k in part (i * part_h // P_h, j * part_w // P_w), n is the number of samples read
(a bin without any is 0), and s starts at a bin's corner, not half a sample inside. `round` takes halves away from zero.
A sample more than half a pixel outside the centres of the border pixels, or not finite, is not read; others are held in
[0, size - 1] and are bilinear. Letters: R boxes, O output channels, G x G groups, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from pliant._geometry import Pair
from pliant.ops._boxes import image_index
from pliant.ops._checks import compute_dtype
from pliant.ops._roi_samples import Axis, Grid, locate


class PSPooling(NamedTuple):
    """What is the same for all boxes."""

    output_size: Pair
    output_channels: int
    group_size: int
    part_size: Pair
    samples_per_bin: int
    spatial_scale: float
    gamma: float

    @classmethod
    def of(cls, output_size: Sequence[int], channels: int, groups: int, part_size: Sequence[int], *rest: Any) -> Self:
        """Make it from the operator's attributes, in which a pair is any sequence."""
        return cls((output_size[0], output_size[1]), channels, groups, (part_size[0], part_size[1]), *rest)


class PSSamples(NamedTuple):
    """The samples of all bins, the number of those read, and the sizes of the boxes."""

    grid: Grid
    divisor: Tensor  # (R, K, Ph, Pw): n, at least 1
    extents: tuple[Tensor, Tensor]  # h and w, (R, 1, 1, 1)


def round_half_away(x: Tensor) -> Tensor:
    """Round to the nearest whole number, halves away from zero, as C does and `torch.round` does not."""
    whole = torch.where(x < 0, x.ceil(), x.floor())  # ONNX has no trunc
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), x.new_zeros(()))


def scaled_index(count: int, parts: int, device: torch.device) -> Tensor:
    """Return which of `parts` each of `count` bins falls into: floor(bin * parts / count)."""
    return torch.arange(count, device=device) * parts // count


def of_parts(maps: Tensor, pooling: PSPooling) -> Tensor:
    """Return for each bin what `maps` (R, X, part_h, part_w) hold for its part: (R, X, Ph, Pw)."""
    rows, columns = (
        scaled_index(b, p, maps.device) for b, p in zip(pooling.output_size, pooling.part_size, strict=True)
    )
    return maps.index_select(2, rows).index_select(3, columns)


def to_parts(grad: Tensor, pooling: PSPooling) -> Tensor:
    """Add up for each part the gradients (R, X, Ph, Pw) of its bins: the way back of `of_parts`."""
    R, X, _, Pw = grad.shape
    rows, columns = (
        scaled_index(b, p, grad.device) for b, p in zip(pooling.output_size, pooling.part_size, strict=True)
    )
    part_h, part_w = pooling.part_size
    summed = grad.new_zeros(R, X, part_h, Pw).index_add_(2, rows, grad)
    return grad.new_zeros(R, X, part_h, part_w).index_add_(3, columns, summed)


def _positions_along(axis: int, rois: Tensor, shift: Tensor | None, pooling: PSPooling) -> tuple[Tensor, Tensor]:
    """Return positions (R, K, Ph, Pw, S) along `axis` (0 for y, 1 for x), and the boxes' extents (R, 1, 1, 1) there."""
    bins, S = pooling.output_size[axis], pooling.samples_per_bin
    begin = round_half_away(rois[:, 2 - axis]) * pooling.spatial_scale - 0.5
    end = (round_half_away(rois[:, 4 - axis]) + 1) * pooling.spatial_scale - 0.5
    extent = (end - begin).clamp(min=0.1)
    finite = begin.isfinite() & end.isfinite() & extent.isfinite()
    begin = torch.where(finite, begin, begin.new_full((), torch.nan)).view(-1, 1, 1, 1)  # which no image holds
    extent = torch.where(finite, extent, extent.new_zeros(())).view(-1, 1, 1, 1)
    number = torch.arange(bins, dtype=rois.dtype, device=rois.device).view((-1, 1) if axis == 0 else (1, -1))
    bin_size = extent / bins
    start = number * bin_size + begin  # (R, 1, Ph, Pw)
    if shift is not None:
        # Without gamma the extent makes no difference, but a large one would make NaN of a gradient that is 0.
        start = start + shift * pooling.gamma * (extent if pooling.gamma else extent.new_ones(()))
    step = torch.arange(S, dtype=rois.dtype, device=rois.device)
    return start.unsqueeze(-1) + step * (bin_size / S).unsqueeze(-1), extent


def _axis(position: Tensor, exists: Tensor, size: int) -> Axis:
    inside = (position >= -0.5) & (position <= size - 0.5) & exists.view(-1, 1, 1, 1, 1)  # false for NaN
    return locate(position, inside, size, right_hand=False)


def classes_of(offset: Tensor | None, mask: Tensor | None) -> int:
    """Return K, the number of classes that have offsets or masks of their own."""
    if offset is not None:
        return offset.shape[1] // 2
    return 1 if mask is None else mask.shape[1]


def sample(input: Tensor, rois: Tensor, offset: Tensor | None, classes: int, pooling: PSPooling) -> PSSamples:
    """Return all samples of all bins."""
    (N, _, H, W), G, O = input.shape, pooling.group_size, pooling.output_channels
    dtype = compute_dtype(input)
    rois = rois.to(dtype)
    R = rois.shape[0]
    shift_x = shift_y = None
    if offset is not None:
        of_bins = of_parts(offset.to(dtype), pooling)  # (R, 2*K, Ph, Pw)
        shift_x, shift_y = of_bins[:, 0::2], of_bins[:, 1::2]
    y, h = _positions_along(0, rois, shift_y, pooling)
    x, w = _positions_along(1, rois, shift_x, pooling)
    y, x = (p.expand(R, classes, *pooling.output_size, pooling.samples_per_bin) for p in (y, x))
    image, exists = image_index(rois, N)
    group_y, group_x = (scaled_index(bins, G, input.device) for bins in pooling.output_size)
    plane = image.view(-1, 1, 1, 1) * classes + torch.arange(classes, device=input.device).view(-1, 1, 1)
    plane = (plane * G + group_y.view(-1, 1)) * G + group_x  # (R, K, Ph, Pw)
    pixels = input.reshape(N, classes, O // classes, G, G, H, W).permute(0, 1, 3, 4, 5, 6, 2)
    grid = Grid(pixels.reshape(-1, O // classes), plane, W, H, _axis(y, exists, H), _axis(x, exists, W))
    return PSSamples(grid, grid.inside().sum((-2, -1)).clamp(min=1).to(dtype), (h, w))


def deform_ps_roi_pool_reference(
    input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: PSPooling
) -> Tensor:
    """Return y (R, O, Ph, Pw) of the module's equation."""
    samples = sample(input, rois, offset, classes_of(offset, mask), pooling)
    y = samples.grid.total() / samples.divisor.unsqueeze(-1)  # (R, K, Ph, Pw, O/K)
    if mask is not None:
        y = y * of_parts(mask.to(y.dtype), pooling).unsqueeze(-1)
    return y.permute(0, 1, 4, 2, 3).flatten(1, 2).to(input.dtype).contiguous()
