# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling by the kernels of a device: its bins, and the gradients made of their sums."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.ops._checks import compute_dtype
from pliant.ops._deform_roi_pool.reference import MAX_GRID, Pooling
from pliant.ops._pooling.bins import (
    MOMENT_X,
    MOMENT_Y,
    POOL_ALIGNED,
    SLOPE_X,
    SLOPE_Y,
    VALUE,
    Bins,
    gradient_of_shifts,
)


def bins_of(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling) -> Bins:
    """Return the bins of all boxes; the equation stands in reference.py."""
    dtype = compute_dtype(input)
    begin, end = (rois.to(dtype)[:, 1:] * pooling.spatial_scale - 0.5).view(-1, 2, 2).flip(2).unbind(1)  # (R, (y, x))
    extent = end - begin
    finite = begin.isfinite() & extent.isfinite()  # a box that is not has no samples, and gives no gradient
    begin, extent = torch.where(finite, begin, torch.nan), torch.where(finite, extent, 0)
    if pooling.sampling_ratio > 0:
        samples = torch.full_like(extent, pooling.sampling_ratio)
    else:
        bin_sizes = [extent[:, axis] / bins for axis, bins in enumerate(pooling.output_size)]
        samples = torch.stack(bin_sizes, 1).ceil().clamp(0, MAX_GRID)
    sides = torch.stack([begin, extent, samples], 2)
    shift = None
    if offset is not None:
        shift = (pooling.gamma * extent.flip(1)[:, :, None, None] * offset.to(dtype)).unsqueeze(1)
    return Bins(rois, sides, shift, mask, pooling.output_size, POOL_ALIGNED, outputs=input.shape[1])


def gradient_of_boxes(sums: Tensor, bins: Bins, offset: Tensor | None, pooling: Pooling) -> Tensor:
    """Return (R, 5). A sample stands at begin + t * extent: t is its place in the box, shift included."""
    ends = []
    for axis, (slope, moment) in enumerate(((SLOPE_Y, MOMENT_Y), (SLOPE_X, MOMENT_X))):
        of_start, of_size = sums[:, 0, ..., slope], sums[:, 0, ..., moment]
        if offset is not None:
            moved = pooling.gamma * offset[:, 1 - axis].to(sums.dtype)
            # A bin whose shift is not finite reads nothing, so that its sums are 0.
            of_size = of_size + torch.where(moved.isfinite(), moved, 0) * of_start
        of_end = of_size.sum((1, 2))
        ends.append((of_start.sum((1, 2)) - of_end, of_end))
    (y1, y2), (x1, x2) = ends
    return pooling.spatial_scale * torch.stack([torch.zeros_like(x1), x1, y1, x2, y2], 1)


def gradient_of_offset(sums: Tensor, bins: Bins, offset: Tensor | None, pooling: Pooling) -> Tensor:
    """Return (R, 2, Ph, Pw)."""
    return gradient_of_shifts(sums, bins, pooling.gamma)


def gradient_of_mask(sums: Tensor, bins: Bins, offset: Tensor | None, pooling: Pooling) -> Tensor:
    """Return (R, 1, Ph, Pw)."""
    return sums[..., VALUE].contiguous()
