# SPDX-License-Identifier: Apache-2.0
"""The forward pass on the CPU: blocks of output positions are sampled into the cache and multiplied there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._deform_conv2d import cpu_products
from pliant.ops._deform_conv2d.cpu_problem import TILE_BYTES, ChannelSlice, CpuConvolution, positions
from pliant.ops._native.library import TYPES, Pair
from pliant.ops._native.memory import pointer

MAX_POSITIONS = 1 << 22  # of one call: numbers of samples stay far below 2^31


def deform_conv2d_cpu(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
) -> Tensor:
    """Return the deformable convolution of CPU tensors; the equation stands in reference.py."""
    problem = CpuConvolution(input, offset, weight, geometry, mask)
    shape = (problem.N, problem.O, problem.Ho, problem.Wo)
    output = torch.empty(shape, dtype=input.dtype, memory_format=memory_format(input))
    slices = problem.slices(copies=not problem.channels_last)
    if problem.is_depthwise:
        for s in slices:
            _depthwise(problem, s, bias, output)
    elif len(slices) == 1 and cpu_products.multiplies_faster(problem):
        cpu_products.convolve(problem, slices[0], bias, output)
    elif problem.is_cut(slices) and output.dtype != problem.dtype:
        _convolve_in_arithmetic_type(problem, slices, bias, output)
    else:
        for s in slices:
            _convolve(problem, s, bias, output)
    return output


def _stride(problem: CpuConvolution) -> Any:
    """Return the elements between positions, and between channels, of the output."""
    return Pair(problem.O, 1) if problem.channels_last else Pair(1, problem.Ho * problem.Wo)


def _check(status: int) -> None:
    if status:
        raise MemoryError("pliant.ops.deform_conv2d: no memory for the blocks that are sampled into the cache")


def _convolve(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    weight = problem.packed_weight(s, problem.native.deform_conv_panel(TYPES[output.dtype]))
    for n in range(problem.N):
        image = problem.image(n, s)
        for first, last in problem.tiles(MAX_POSITIONS):
            target = positions(output, n, problem.outputs(s))[first:last]
            _convolve_tile(problem, s, n, image, weight, bias, first, last, target, _stride(problem))


def _convolve_tile(
    problem: CpuConvolution,
    s: ChannelSlice,
    n: int,
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: int,
    last: int,
    target: Tensor,
    stride: Any,
) -> None:
    accumulate = s.begin % problem.per_group > 0
    b = None if bias is None or accumulate else bias[problem.outputs(s)].to(problem.dtype).contiguous()
    tile, offset, mask = problem.tile(s, first, last, *problem.maps(n))
    status = problem.native.deform_conv(
        tile,
        TYPES[image.dtype],
        image.data_ptr(),
        offset.data_ptr(),
        pointer(mask),
        weight.data_ptr(),
        problem.O // problem.groups,
        pointer(b),
        target.data_ptr(),
        stride,
        accumulate,
    )
    _check(status)


def _convolve_in_arithmetic_type(
    problem: CpuConvolution, slices: list[ChannelSlice], bias: Tensor | None, output: Tensor
) -> None:
    """Add up slices of one weight group in float32: a sum in half precision would be rounded once for each slice."""
    panel = problem.native.deform_conv_panel(TYPES[problem.dtype])
    weights = [problem.packed_weight(s, panel) for s in slices]
    most = max(64, TILE_BYTES // (problem.O * problem.dtype.itemsize))
    for n in range(problem.N):
        for first, last in problem.tiles(most):
            sums = problem.scratch.take("sums", (last - first, problem.O), problem.dtype)
            for s, weight in zip(slices, weights, strict=True):
                image = problem.image(n, s, problem.dtype)
                target, stride = sums[:, problem.outputs(s)], Pair(problem.O, 1)
                _convolve_tile(problem, s, n, image, weight, bias, first, last, target, stride)
            positions(output, n, slice(None))[first:last].copy_(sums)


def _depthwise(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    weight = problem.depthwise_weight(s)
    b = None if bias is None else bias[s.begin : s.end].to(problem.dtype).contiguous()
    for n in range(problem.N):
        image = problem.image(n, s)
        for first, last in problem.tiles(MAX_POSITIONS):
            tile, offset, mask = problem.tile(s, first, last, *problem.maps(n))
            status = problem.native.deform_depthwise(
                tile,
                TYPES[image.dtype],
                image.data_ptr(),
                offset.data_ptr(),
                pointer(mask),
                weight.data_ptr(),
                pointer(b),
                positions(output, n, slice(s.begin, s.end))[first:last].data_ptr(),
                _stride(problem),
            )
            _check(status)
