# SPDX-License-Identifier: Apache-2.0
"""A deformable convolution as other programs know it: torchvision's operator, or a node of the ONNX standard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry
from pliant.ops._deform_conv2d.plain import decomposed
from pliant.ops._recording import numbers_are_fixed, onnx_opset, torchvision_operators

OPSET = 19  # the first with DeformConv


def as_torchvision(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, mask: Tensor | None
) -> Tensor:
    """Call torchvision's operator, which computes the same and which a trace then holds."""
    groups, offset_groups = _groups(input, offset, weight)
    attributes = (*geometry.stride, *geometry.padding, *geometry.dilation, groups, offset_groups, mask is not None)
    no_bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    no_mask = input.new_zeros(input.shape[0], 1) if mask is None else mask
    result: Tensor = torchvision_operators().deform_conv2d(input, weight, offset, no_mask, no_bias, *attributes)
    return result


def as_onnx(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, mask: Tensor | None
) -> Tensor:
    """Write the standard's DeformConv: the same order of offsets, the same rule at the border.

    Versions of the standard before it get the same in plain operators.
    """
    opset = onnx_opset()
    if opset is not None and opset < OPSET:
        return decomposed(input, offset, weight, bias, geometry, mask)
    groups, offset_groups = _groups(input, offset, weight)
    attributes: dict[str, Any] = {
        "kernel_shape": [int(size) for size in weight.shape[2:]],
        "strides": list(geometry.stride),
        "pads": [*geometry.padding, *geometry.padding],
        "dilations": list(geometry.dilation),
        "group": groups,
        "offset_group": offset_groups,
    }
    inputs = (input, weight, offset, bias, mask)
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    result: Tensor = torch.onnx.ops.symbolic(
        "DeformConv", inputs, attributes, dtype=input.dtype, shape=shape, version=OPSET
    )
    return result


def _groups(input: Tensor, offset: Tensor, weight: Tensor) -> tuple[int, int]:
    """Return the numbers of weight groups and of offset groups, as plain numbers."""
    with numbers_are_fixed():
        _, per_group, kh, kw = (int(size) for size in weight.shape)
        return int(input.shape[1]) // per_group, int(offset.shape[1]) // (2 * kh * kw)
