# SPDX-License-Identifier: Apache-2.0
"""The path of GPUs on which Triton cannot run: the reference, a band of output rows at a time.

The reference keeps all samples in memory at once; here they are bounded at any image size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._checks import compute_dtype
from pliant.ops._deform_conv2d.reference import deform_conv2d_reference
from pliant.ops._deform_conv2d.reference_backward import deform_conv2d_reference_backward

BAND_BYTES = 64 << 20
COLUMNS_ALIVE = 12  # arrays as large as the columns, in arithmetic type, that the reference holds at once


def _bands(input: Tensor, offset: Tensor, weight: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield image, first and last output row of each band."""
    K, (Ho, Wo) = weight.shape[2] * weight.shape[3], offset.shape[2:]
    row = COLUMNS_ALIVE * input.shape[1] * K * Wo * compute_dtype(input).itemsize
    rows = max(1, BAND_BYTES // max(1, row))
    for n in range(input.shape[0]):
        for first in range(0, Ho, rows):
            yield n, first, min(first + rows, Ho)


def _at(geometry: ConvGeometry, first: int) -> ConvGeometry:
    """Return the geometry whose output row 0 is row `first` of `geometry`."""
    top = geometry.padding[0] - first * geometry.stride[0]
    return geometry._replace(padding=(top, geometry.padding[1]))


def deform_conv2d_columns(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, mask: Tensor | None
) -> Tensor:
    """Return the deformable convolution, band by band."""
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    for n, first, last in _bands(input, offset, weight):
        o, m = (None if t is None else t[n : n + 1, :, first:last] for t in (offset, mask))
        assert o is not None
        band = deform_conv2d_reference(input[n : n + 1], o, weight, bias, _at(geometry, first), m)
        output[n : n + 1, :, first:last] = band
    return output


def deform_conv2d_columns_backward(
    grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, geometry: ConvGeometry, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset, weight, bias and mask (empty without a mask), band by band."""
    dtype = compute_dtype(input)
    grad_input = torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    grad_offset = offset.new_empty(offset.shape)
    grad_mask = grad.new_empty(0) if mask is None else mask.new_empty(mask.shape)
    grad_weight = weight.new_zeros(weight.shape, dtype=dtype)
    grad_image: Tensor | None = None
    wide_weight = weight.to(dtype)  # so that what the bands add up is rounded once, at the end
    for n, first, last in _bands(input, offset, weight):
        grad_image = input.new_zeros((1, *input.shape[1:]), dtype=dtype) if first == 0 else grad_image
        assert grad_image is not None
        rows = slice(first, last)
        m = None if mask is None else mask[n : n + 1, :, rows]
        x, o, u = input[n : n + 1].to(dtype), offset[n : n + 1, :, rows], grad[n : n + 1, :, rows]
        g = deform_conv2d_reference_backward(u, x, o, wide_weight, _at(geometry, first), m)
        grad_image += g[0]
        grad_weight += g[2]
        grad_offset[n : n + 1, :, rows] = g[1]
        if mask is not None:
            grad_mask[n : n + 1, :, rows] = g[4]
        if last == offset.shape[2]:
            grad_input[n : n + 1] = grad_image
    grad_bias = grad.sum((0, 2, 3), dtype=dtype).to(weight.dtype)
    return grad_input, grad_offset, grad_weight.to(weight.dtype), grad_bias, grad_mask
