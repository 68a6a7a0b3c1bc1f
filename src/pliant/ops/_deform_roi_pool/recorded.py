# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling as other programs know it: RoIAlign of bins, each a box of its own, moved by its offset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import Pair
from pliant.ops._deform_roi_pool.reference import Pooling
from pliant.ops._recording import torchvision_operators

OPSET = 16  # the first whose RoiAlign has half-pixel coordinates
ROUNDINGS = 4  # how many roundings lie between a bin's size here and there, in units of the last place

Align = Callable[[Tensor, Tensor, float, Pair, int], Tensor]  # maps, (R, 5) boxes, scale, output size, sampling ratio


def as_roi_align(
    input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling, align: Align
) -> Tensor:
    """Return the pooled boxes (R, C, Ph, Pw), computed by `align`."""
    size, scale, ratio, _ = pooling
    if offset is None:
        pooled = align(input, rois, scale, size, ratio)
    else:
        bins = align(input, _boxes_of_bins(rois, offset, pooling), 1.0, (1, 1), ratio)
        pooled = bins.view(-1, size[0], size[1], input.shape[1]).permute(0, 3, 1, 2)
    return pooled if mask is None else pooled * mask


def by_torchvision(input: Tensor, rois: Tensor, scale: float, size: Pair, ratio: int) -> Tensor:
    """Call torchvision's operator, which a trace then holds."""
    result: Tensor = torchvision_operators().roi_align(input, rois, scale, *size, max(ratio, 0), True)
    return result


def by_onnx(input: Tensor, rois: Tensor, scale: float, size: Pair, ratio: int) -> Tensor:
    """Write the standard's RoiAlign."""
    attributes: dict[str, Any] = {
        "mode": "avg",
        "coordinate_transformation_mode": "half_pixel",
        "spatial_scale": scale,
        "sampling_ratio": max(ratio, 0),
        "output_height": size[0],
        "output_width": size[1],
    }
    inputs = (input, rois[:, 1:], rois[:, 0].long())
    shape = (rois.shape[0], input.shape[1], *size)
    result: Tensor = torch.onnx.ops.symbolic(
        "RoiAlign", inputs, attributes, dtype=input.dtype, shape=shape, version=OPSET
    )
    return result


def _boxes_of_bins(rois: Tensor, offset: Tensor, pooling: Pooling) -> Tensor:
    """Return (R*Ph*Pw, 5) rows of (image, x1, y1, x2, y2) in pixels of the map, row-major in each box."""
    rows, columns = pooling.output_size
    corners = rois[:, 1:] * pooling.spatial_scale - 0.5
    begin, extent = corners[:, None, None, :2], (corners[:, 2:] - corners[:, :2])[:, None, None]  # (R, 1, 1, 2)
    bin_size = extent / extent.new_tensor([columns, rows])
    number = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1)
    start = begin + pooling.gamma * extent * offset.permute(0, 2, 3, 1) + number.to(extent) * bin_size  # (R, Ph, Pw, 2)
    if pooling.sampling_ratio <= 0:
        start, bin_size = _with_sure_grid(start, bin_size)
    image = rois[:, :1, None, None].expand(-1, rows, columns, 1)
    return torch.cat([image, start + 0.5, start + bin_size + 0.5], -1).view(-1, 5)


def _with_sure_grid(start: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Keep bins clear of whole sizes, around which RoIAlign's own rounding decides how many samples it takes.

    A bin has ceil(size) samples along an axis. It is made a few units of the last place of its position larger or
    smaller, around its centre, where that many roundings could cross a whole number.
    """
    count = size.ceil()
    farthest = torch.maximum(start.abs(), (start + size).abs()) + 1
    margin = ROUNDINGS * torch.finfo(size.dtype).eps * farthest
    sure = torch.minimum(torch.maximum(size, count - 1 + margin), count - margin)
    return start + (size - sure) / 2, sure
