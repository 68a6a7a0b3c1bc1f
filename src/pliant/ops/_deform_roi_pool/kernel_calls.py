# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling by the kernels of a device: its bins, and the gradients made of their sums."""

from __future__ import annotations

from collections.abc import Sequence

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
    Kernels,
)


def pool_by(
    kernels: Kernels, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling
) -> Tensor:
    """Return the pooling; the equation stands in reference.py."""
    return kernels.pool(input, _bins(input, rois, offset, mask, pooling))


def pool_backward_by(
    kernels: Kernels,
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    pooling: Pooling,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, rois, offset and mask, empty where not needed."""
    bins = _bins(input, rois, offset, mask, pooling)
    needs_products = needed[1] or (needed[2] and offset is not None) or (needed[3] and mask is not None)
    g_input, sums = kernels.pool_backward(grad, input, bins, needs_input=needed[0], needs_products=needs_products)
    g_rois, g_offset, g_mask = (grad.new_empty(0) for _ in range(3))
    if sums is not None:
        value, slope_y, slope_x = (sums[:, 0, ..., i] for i in (VALUE, SLOPE_Y, SLOPE_X))
        if needed[1]:
            g_rois = _gradient_of_boxes(sums, bins, offset, pooling).to(rois.dtype)
        if needed[2] and offset is not None:
            height, width = bins.sides[:, :, 1, None, None].unbind(1)
            # In this order: the width times gamma may be infinite where sums are 0, times sums where gamma is.
            shifts = [pooling.gamma * slope_x * width, pooling.gamma * slope_y * height]
            g_offset = torch.stack(shifts, 1).to(offset.dtype)
        if needed[3] and mask is not None:
            g_mask = value.unsqueeze(1).to(mask.dtype).contiguous()
    return grad.new_empty(0) if g_input is None else g_input, g_rois, g_offset, g_mask


def _bins(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling) -> Bins:
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


def _gradient_of_boxes(sums: Tensor, bins: Bins, offset: Tensor | None, pooling: Pooling) -> Tensor:
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
