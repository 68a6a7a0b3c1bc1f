# SPDX-License-Identifier: Apache-2.0
"""pliant's operators in the operators of the ONNX standard: DeformConv (opset 19) and RoiAlign (opset 16).

And one of PyTorch's, which classifiers resize images with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.onnx import symbolic_helper

from pliant._check import fail

Graph = Any  # torch.onnx's graph builder, whose type is not public
Value = Any

INT64 = 7  # the standard's TensorProto.DataType


@symbolic_helper.parse_args("v", "v", "v", "v", "is", "is", "is", "v")
def deform_conv2d(
    g: Graph,
    input: Value,
    offset: Value,
    weight: Value,
    bias: Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Value,
) -> Value:
    """Write `pliant::deform_conv2d` as ONNX DeformConv: the same order of offsets, the same rule at the border."""
    kernel = _sizes("weight", weight)[2:]
    group = _sizes("input", input, 1)[1] // _sizes("weight", weight)[1]
    offset_group = _sizes("offset", offset, 1)[1] // (2 * kernel[0] * kernel[1])
    return g.op(
        "DeformConv",
        input,
        weight,
        offset,
        bias,
        mask,
        kernel_shape_i=kernel,
        strides_i=stride,
        pads_i=[*padding, *padding],
        dilations_i=dilation,
        group_i=group,
        offset_group_i=offset_group,
    )


@symbolic_helper.parse_args("v", "is", "b", "none")
def antialiased_resize(
    g: Graph, input: Value, output_size: Sequence[int], align_corners: bool, scale_factors: None
) -> Value:
    """Write PyTorch's antialiased bilinear resizing, of which its exporter knows nothing, as ONNX Resize (opset 18)."""
    count = g.op("Slice", g.op("Shape", input), *(g.op("Constant", value_t=torch.tensor([k])) for k in (0, 2)))
    return g.op(
        "Resize",
        input,
        g.op("Constant", value_t=torch.tensor([])),
        g.op("Constant", value_t=torch.tensor([])),
        g.op("Concat", count, g.op("Constant", value_t=torch.tensor(output_size)), axis_i=0),
        mode_s="linear",
        antialias_i=1,
        coordinate_transformation_mode_s="align_corners" if align_corners else "half_pixel",
    )


def _sizes(name: str, value: Value, axis: int | None = None) -> list[int]:
    """Return the sizes of a tensor, of which that along `axis`, or all, must be known while exporting."""
    sizes = cast("list[int | None]", symbolic_helper._get_tensor_sizes(value))
    if sizes is None or None in (sizes if axis is None else [sizes[axis]]):
        fix = "export with example inputs of fixed size, and without dynamic channels"
        fail(name, "must have channels that are known while exporting", sizes, fix)
    return cast("list[int]", sizes)


@symbolic_helper.parse_args("v", "v", "v", "v", "is", "f", "i", "f")
def deform_roi_pool(
    g: Graph,
    input: Value,
    rois: Value,
    offset: Value,
    mask: Value,
    output_size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Value:
    """Write `pliant::deform_roi_pool` as one RoiAlign of all bins, each a box of its own, shifted by its offset."""
    batch = g.op("Cast", _columns(g, rois, [0]), to_i=INT64)
    batch = _reshape(g, batch, [-1])
    attributes = {
        "mode_s": "avg",
        "coordinate_transformation_mode_s": "half_pixel",
        "spatial_scale_f": spatial_scale,
        "sampling_ratio_i": sampling_ratio,
    }
    rows, columns = output_size
    if symbolic_helper._is_none(offset):
        boxes = _columns(g, rois, [1, 2, 3, 4])
        pooled = g.op("RoiAlign", input, boxes, batch, output_height_i=rows, output_width_i=columns, **attributes)
    else:
        boxes = _bin_boxes(g, rois, offset, rows, columns, gamma)  # (R*Ph*Pw, 4)
        each = g.op("Constant", value_t=torch.zeros(1, rows * columns, dtype=torch.int64))
        batch = _reshape(g, g.op("Add", _reshape(g, batch, [-1, 1]), each), [-1])
        pooled = g.op("RoiAlign", input, boxes, batch, output_height_i=1, output_width_i=1, **attributes)
        pooled = _reshape(g, pooled, [-1, rows, columns, _sizes("input", input, 1)[1]])
        pooled = g.op("Transpose", pooled, perm_i=[0, 3, 1, 2])
    return pooled if symbolic_helper._is_none(mask) else g.op("Mul", pooled, mask)


def _bin_boxes(g: Graph, rois: Value, offset: Value, rows: int, columns: int, gamma: float) -> Value:
    """Return (x1, y1, x2, y2) of each bin, in the image's pixels, row-major in each region."""
    offset = g.op("Transpose", offset, perm_i=[0, 2, 3, 1])  # (R, Ph, Pw, 2), x then y
    start = _reshape(g, _columns(g, rois, [1, 2]), [-1, 1, 1, 2])
    end = _reshape(g, _columns(g, rois, [3, 4]), [-1, 1, 1, 2])
    size = g.op("Sub", end, start)
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")[::-1], dim=-1)
    step = g.op("Div", size, g.op("Constant", value_t=torch.tensor([float(columns), float(rows)])))
    shift = g.op("Mul", g.op("Mul", offset, size), g.op("Constant", value_t=torch.tensor(gamma)))
    inner = g.op("Mul", step, g.op("Constant", value_t=place.float()))  # (R, Ph, Pw, 2)
    first = g.op("Add", g.op("Add", start, inner), shift)
    boxes = g.op("Concat", first, g.op("Add", first, step), axis_i=-1)
    return _reshape(g, boxes, [-1, 4])


def _columns(g: Graph, value: Value, columns: Sequence[int]) -> Value:
    return g.op("Gather", value, g.op("Constant", value_t=torch.tensor(columns)), axis_i=1)


def _reshape(g: Graph, value: Value, shape: Sequence[int]) -> Value:
    return g.op("Reshape", value, g.op("Constant", value_t=torch.tensor(shape)))
