# SPDX-License-Identifier: Apache-2.0
"""The forward pass on the CPU: blocks of output positions are sampled into the cache and multiplied there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._deform_conv2d import cpu_products
from pliant.ops._deform_conv2d.cpu_problem import TILE_BYTES, ChannelSlice, CpuConvolution, Run, check_memory, positions
from pliant.ops._native.library import TYPES, Triple
from pliant.ops._native.memory import pointer

MAX_POSITIONS = 1 << 16  # of one call
COLUMN_BYTES = 4 << 20  # of few positions, which are all in cache at a time


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
    slices = problem.slices()
    if problem.is_depthwise:
        for s in slices:
            _depthwise(problem, s, bias, output)
    elif len(slices) == 1 and cpu_products.multiplies_faster(problem):
        cpu_products.convolve(problem, slices[0], bias, output)
    elif output.dtype != problem.dtype and any(s.begin % problem.per_group > 0 for s in slices):  # parts of a group
        _convolve_in_arithmetic_type(problem, slices, bias, output)
    elif len(slices) == 1 and _few_positions(problem):
        _convolve_few(problem, slices[0], bias, output)
    else:
        for s in slices:
            _convolve(problem, s, bias, output)
    return output


def _few_positions(problem: CpuConvolution) -> bool:
    """Return whether weights are more than columns, so that it pays not to pack them all."""
    count = problem.N * problem.Ho * problem.Wo
    columns = (count + 16) * problem.K * problem.C * problem.dtype.itemsize
    return count < problem.O // problem.groups and columns <= COLUMN_BYTES


def _stride(problem: CpuConvolution) -> Any:
    """Return the elements between images, between positions, and between channels of the output."""
    O, P = problem.O, problem.Ho * problem.Wo
    return Triple(O * P, O, 1) if problem.channels_last else Triple(O * P, 1, P)


def _convolve(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    weight = problem.packed_weight(s, problem.native.deform_conv_panel(TYPES[output.dtype]))
    for run in problem.runs(s, MAX_POSITIONS):
        for first, last in problem.tiles(MAX_POSITIONS):
            target = positions(output, run.n, problem.outputs(s))[:, first:last]
            _convolve_tile(problem, s, run, weight, bias, first, last, target, _stride(problem))


def _convolve_few(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    weight = problem.weight.to(problem.dtype).flatten(2)
    b = None if bias is None else bias.to(problem.dtype).contiguous()
    count = problem.Ho * problem.Wo
    for run in problem.runs(s, MAX_POSITIONS):
        rows = run.image.shape[0] * count + 16
        status = problem.native.deform_conv_few(
            *problem.tile(s, run, 0, count),
            weight.data_ptr(),
            Triple(*weight.stride()),
            problem.O // problem.groups,
            pointer(b),
            problem.scratch.take("columns", (rows, problem.K * problem.C), problem.dtype).data_ptr(),
            positions(output, run.n, slice(None)).data_ptr(),
            _stride(problem),
        )
        check_memory(status)


def _convolve_tile(
    problem: CpuConvolution,
    s: ChannelSlice,
    run: Run,
    weight: Tensor,
    bias: Tensor | None,
    first: int,
    last: int,
    target: Tensor,
    stride: Any,
) -> None:
    accumulate = s.begin % problem.per_group > 0
    b = None if bias is None or accumulate else bias[problem.outputs(s)].to(problem.dtype).contiguous()
    status = problem.native.deform_conv(
        *problem.tile(s, run, first, last),
        weight.data_ptr(),
        problem.O // problem.groups,
        pointer(b),
        target.data_ptr(),
        stride,
        accumulate,
    )
    check_memory(status)


def _convolve_in_arithmetic_type(
    problem: CpuConvolution, slices: list[ChannelSlice], bias: Tensor | None, output: Tensor
) -> None:
    """Add up slices of one weight group in float32: a sum in half precision would be rounded once for each slice."""
    panel = problem.native.deform_conv_panel(TYPES[problem.dtype])
    weights = [problem.packed_weight(s, panel, f"weight {s.begin}") for s in slices]
    most = max(64, TILE_BYTES // (problem.O * problem.dtype.itemsize))
    for images in (slice(n, n + 1) for n in range(problem.N)):
        for first, last in problem.tiles(most):
            sums = problem.scratch.take("sums", (last - first, problem.O), problem.dtype)
            for s, weight in zip(slices, weights, strict=True):
                run = problem.run(images, s, problem.dtype)
                target, stride = sums[:, problem.outputs(s)], Triple(0, problem.O, 1)
                _convolve_tile(problem, s, run, weight, bias, first, last, target, stride)
            positions(output, images, slice(None))[0, first:last].copy_(sums)


def _depthwise(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    weight = problem.depthwise_weight(s)
    b = None if bias is None else bias[s.begin : s.end].to(problem.dtype).contiguous()
    for run in problem.runs(s, MAX_POSITIONS):
        for first, last in problem.tiles(MAX_POSITIONS):
            status = problem.native.deform_depthwise(
                *problem.tile(s, run, first, last),
                weight.data_ptr(),
                pointer(b),
                positions(output, run.n, slice(s.begin, s.end))[:, first:last].data_ptr(),
                _stride(problem),
            )
            check_memory(status)
