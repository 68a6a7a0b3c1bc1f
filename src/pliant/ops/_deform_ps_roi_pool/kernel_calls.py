# SPDX-License-Identifier: Apache-2.0
"""Position-sensitive pooling by the kernels of a device: its bins, and the gradients made of their sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant.ops._checks import compute_dtype
from pliant.ops._deform_ps_roi_pool.reference import PSPooling, classes_of, of_parts, round_half_away, to_parts
from pliant.ops._pooling.bins import POOL_POSITION_SENSITIVE, SLOPE_X, SLOPE_Y, VALUE, Bins, Kernels


def pool_by(
    kernels: Kernels, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: PSPooling
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
    pooling: PSPooling,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset and mask, empty where not needed."""
    bins = _bins(input, rois, offset, mask, pooling)
    needs_offset, needs_mask = needed[1] and offset is not None, needed[2] and mask is not None
    g_input, sums = kernels.pool_backward(
        grad, input, bins, needs_input=needed[0], needs_products=needs_offset or needs_mask
    )
    g_offset, g_mask = grad.new_empty(0), grad.new_empty(0)
    if sums is not None and offset is not None and needs_offset:
        height, width = bins.sides[:, :, 1, None, None, None].unbind(1)
        # In this order: the width times gamma may be infinite where sums are 0, times sums where gamma is.
        shifts = [pooling.gamma * sums[..., SLOPE_X] * width, pooling.gamma * sums[..., SLOPE_Y] * height]
        g_offset = to_parts(torch.stack(shifts, 2).flatten(1, 2), pooling).to(offset.dtype)
    if sums is not None and mask is not None and needs_mask:
        g_mask = to_parts(sums[..., VALUE], pooling).to(mask.dtype)
    return grad.new_empty(0) if g_input is None else g_input, g_offset, g_mask


def _bins(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: PSPooling) -> Bins:
    dtype = compute_dtype(input)
    corners = round_half_away(rois.to(dtype)[:, 1:]).view(-1, 2, 2).flip(2)  # (R, (begin, end), (y, x))
    begin, end = corners[:, 0] * pooling.spatial_scale - 0.5, (corners[:, 1] + 1) * pooling.spatial_scale - 0.5
    extent = (end - begin).clamp(min=0.1)
    finite = begin.isfinite() & end.isfinite() & extent.isfinite()  # others have no samples
    begin, extent = torch.where(finite, begin, torch.nan), torch.where(finite, extent, 0)
    sides = torch.stack([begin, extent, torch.full_like(extent, pooling.samples_per_bin)], 2)
    classes = classes_of(offset, mask)
    shift = None
    if offset is not None:
        of_bins = of_parts(offset.to(dtype), pooling).unflatten(1, (classes, 2))  # (R, K, (x, y), Ph, Pw)
        shift = of_bins * pooling.gamma * extent.flip(1)[:, None, :, None, None]
    of_mask = None if mask is None else of_parts(mask, pooling)
    outputs, groups = pooling.output_channels, pooling.group_size
    return Bins(
        rois,
        sides,
        shift,
        of_mask,
        pooling.output_size,
        POOL_POSITION_SENSITIVE,
        outputs,
        groups=groups,
        classes=classes,
    )
