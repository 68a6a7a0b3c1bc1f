# SPDX-License-Identifier: Apache-2.0
"""The forward pass on the CPU: blocks of output positions are sampled into the cache and multiplied there."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._deform_conv2d.cpu_problem import MAX_POSITIONS, ChannelSlice, CpuConvolution, positions
from pliant.ops._native.library import TYPES, Pair
from pliant.ops._native.memory import pointer

MAX_FUSED_POSITIONS = 1 << 16  # of one call, in which only offset and mask, in arithmetic type, grow with the number


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
    if input.dtype != problem.dtype and problem.adds_slices(slices):
        for n in range(problem.N):
            one = slice(n, n + 1)
            output[one] = _added_up(
                input[one], offset[one], weight, bias, geometry, None if mask is None else mask[one]
            )
        return output
    run = _depthwise if problem.is_depthwise else _convolve
    for s in slices:
        run(problem, s, bias, output)
    return output


def _added_up(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
) -> Tensor:
    """Return the convolution of one image in a half type in float32, since its slices would add up in the half type."""
    problem = CpuConvolution(input, offset, weight, geometry, mask)
    problem.image_dtype = problem.dtype
    total = torch.empty(1, problem.O, problem.Ho, problem.Wo, dtype=problem.dtype)
    for s in problem.slices(copies=True):
        _convolve(problem, s, bias, total)
    return total


def _convolve(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    image_type = TYPES[output.dtype]
    weight, outputs = problem.packed_weight(s, problem.native.deform_conv_panel(image_type)), problem.outputs(s)
    accumulate = s.begin % problem.per_group > 0
    b = None if bias is None or accumulate else bias[outputs].to(problem.dtype).contiguous()
    stride = Pair(problem.O, 1) if problem.channels_last else Pair(1, problem.Ho * problem.Wo)
    for n in range(problem.N):
        image = problem.image(n, s)
        offset, mask = problem.maps(n)
        for first, last in problem.tiles(MAX_FUSED_POSITIONS):
            tile, o, m = problem.tile(s, image, first, last, offset, mask)
            status = problem.native.deform_conv(
                tile,
                image_type,
                image.data_ptr(),
                o.data_ptr(),
                pointer(m),
                weight.data_ptr(),
                problem.O // problem.groups,
                pointer(b),
                positions(output, n, outputs)[first:last].data_ptr(),
                stride,
                accumulate,
            )
            if status:
                raise MemoryError("pliant.ops.deform_conv2d: no memory for the blocks that are sampled into the cache")


def _depthwise(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    weight = problem.depthwise_weight(s)
    b = None if bias is None else bias[s.begin : s.end].to(problem.dtype).contiguous()
    in_place = problem.channels_last and output.dtype == problem.dtype
    for n in range(problem.N):
        image = problem.image(n, s)
        offset, mask = problem.maps(n)
        for first, last in problem.tiles(MAX_POSITIONS):
            target = positions(output, n, slice(s.begin, s.end))[first:last]
            result = target if in_place else torch.empty(last - first, s.width, dtype=problem.dtype)
            tile, o, m = problem.tile(s, image, first, last, offset, mask)
            problem.native.deform_depthwise(
                tile,
                TYPES[image.dtype],
                image.data_ptr(),
                o.data_ptr(),
                pointer(m),
                weight.data_ptr(),
                pointer(b),
                result.data_ptr(),
                problem.C if in_place else s.width,
            )
            if not in_place:
                target.copy_(result)
