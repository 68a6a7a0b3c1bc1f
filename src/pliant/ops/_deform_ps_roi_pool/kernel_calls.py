# SPDX-License-Identifier: Apache-2.0
"""Position-sensitive pooling by the kernels of a device: its bins, and the gradients made of their sums."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.ops._checks import compute_dtype
from pliant.ops._deform_ps_roi_pool.reference import PSPooling, classes_of, of_parts, round_half_away, to_parts
from pliant.ops._pooling.bins import POOL_POSITION_SENSITIVE, VALUE, Bins, gradient_of_shifts


def bins_of(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: PSPooling) -> Bins:
    """Return the bins of all boxes; the equation stands in reference.py."""
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


def gradient_of_offset(sums: Tensor, bins: Bins, offset: Tensor | None, pooling: PSPooling) -> Tensor:
    """Return (R, 2*classes, part_h, part_w)."""
    return to_parts(gradient_of_shifts(sums, bins, pooling.gamma), pooling)


def gradient_of_mask(sums: Tensor, bins: Bins, offset: Tensor | None, pooling: PSPooling) -> Tensor:
    """Return (R, classes, part_h, part_w)."""
    return to_parts(sums[..., VALUE], pooling)
