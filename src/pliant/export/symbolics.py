# SPDX-License-Identifier: Apache-2.0
"""Operators of other libraries in those of the ONNX standard, which PyTorch's tracing exporter lacks.

That exporter follows a model by `torch.jit.trace`, in which pliant records torchvision's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.onnx import symbolic_helper

from pliant.ops._deform_conv2d.recorded import OPSET

Graph = Any  # torch.onnx's graph builder, whose type is not public
Value = Any


@symbolic_helper.parse_args("v", "v", "v", "v", "v", "i", "i", "i", "i", "i", "i", "i", "i", "b")
def _deform_conv2d(
    g: Graph,
    input: Value,
    weight: Value,
    offset: Value,
    mask: Value,
    bias: Value,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Value:
    """Write `torchvision::deform_conv2d` as DeformConv (opset 19): the same order of offsets, the same border."""
    return g.op(
        "DeformConv",
        input,
        weight,
        offset,
        bias,
        *([mask] if use_mask else []),
        strides_i=[stride_h, stride_w],
        pads_i=[pad_h, pad_w, pad_h, pad_w],
        dilations_i=[dilation_h, dilation_w],
        group_i=groups,
        offset_group_i=offset_groups,
    )


@symbolic_helper.parse_args("v", "is", "b", "none")
def _antialiased_resize(
    g: Graph, input: Value, output_size: Sequence[int], align_corners: bool, scale_factors: None
) -> Value:
    """Write PyTorch's antialiased bilinear resizing as Resize (opset 18)."""
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


# The version of the standard from which each can be written, and what writes it.
SYMBOLICS: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "torchvision::deform_conv2d": (OPSET, _deform_conv2d),
    "aten::_upsample_bilinear2d_aa": (18, _antialiased_resize),
}
