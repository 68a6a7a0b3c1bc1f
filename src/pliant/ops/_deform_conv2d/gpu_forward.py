# SPDX-License-Identifier: Apache-2.0
"""The forward pass on a GPU: one kernel gathers samples and multiplies them; no column reaches memory."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops import _triton
from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution
from pliant.ops._deform_conv2d.gpu_tiles import ELEMENTWISE_CHANNELS, Layer, Tile, elementwise_tile, fused_tile
from pliant.ops._deform_conv2d.triton_forward import elementwise_convolution, fused_convolution


def deform_conv2d_triton(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """Return the deformable convolution of GPU tensors; the equation stands in reference.py.

    `tile` replaces the table's choice.
    """
    problem = GpuConvolution(input, offset, weight, geometry, mask)
    shape = (problem.N, problem.O, problem.Ho, problem.Wo)
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    run = _elementwise if is_elementwise(problem) else _fused
    run(problem, None if bias is None else bias.contiguous(), output, tile)
    return output


def is_elementwise(problem: GpuConvolution) -> bool:
    """Say whether groups have too few channels for a matrix product."""
    return problem.per_group <= ELEMENTWISE_CHANNELS < problem.C


def layer_of(problem: GpuConvolution) -> Layer:
    """Return what the choice of a tile depends on."""
    return Layer(problem.dtype, problem.M, problem.groups, problem.O // problem.groups, problem.segment)


def _fused(problem: GpuConvolution, bias: Tensor | None, output: Tensor, tile: Tile | None) -> None:
    outputs = problem.O // problem.groups
    if tile is None:
        tile = fused_tile(_triton.architecture(problem.device), layer_of(problem))
    weight = problem.weight.permute(0, 2, 3, 1).contiguous()  # (O, kh, kw, C/groups), no copy of a channels_last weight
    _launch(
        fused_convolution,
        problem,
        (weight, bias, output),
        tile,
        blocks=problem.groups * -(-outputs // tile.outputs),
        SEGMENT=problem.segment,
        DT=_triton.dot_type(problem.dtype),
        PRECISION=_triton.dot_precision(problem.dtype),
        STAGES=tile.stages,
        BLOCK_C=tile.channels,
    )


def _elementwise(problem: GpuConvolution, bias: Tensor | None, output: Tensor, tile: Tile | None) -> None:
    if tile is None:
        tile = elementwise_tile(problem.dtype, problem.O)
        tile = tile if _shares_cells(problem, tile) else elementwise_tile(problem.dtype, problem.O, shared=False)
    weight = problem.weight.permute(2, 3, 1, 0).contiguous()  # (kh, kw, C/groups, O)
    blocks = -(-problem.O // tile.outputs)
    _launch(elementwise_convolution, problem, (weight, bias, output), tile, blocks, SHARED=_shares_cells(problem, tile))


def _shares_cells(problem: GpuConvolution, tile: Tile) -> bool:
    """Say whether the output channels of each tile read through one offset group."""
    whole_groups = problem.C // problem.G % problem.per_group == 0
    return problem.G == 1 or (whole_groups and problem.O // problem.G % tile.outputs == 0)


def _launch(
    kernel: object,
    problem: GpuConvolution,
    tensors: tuple[Tensor, Tensor | None, Tensor],
    tile: Tile,
    blocks: int,
    **constants: object,
) -> None:
    weight, bias, output = tensors
    if tile.patch:
        rows, columns = -(-problem.Ho * tile.patch // tile.positions), -(-problem.Wo // tile.patch)
        tiles = problem.N * rows * columns
    else:
        tiles = -(-problem.M // tile.positions)
    _triton.launch(
        kernel,
        (tiles, blocks),
        problem.device,
        problem.image,
        problem.offset,
        problem.mask,
        weight,
        bias,
        output,
        *problem.sizes(),
        *problem.map_strides(),
        *problem.steps(),
        C=problem.C,
        O=problem.O,
        GROUPS=problem.groups,
        OFFSET_GROUPS=problem.G,
        HAS_BIAS=bias is not None,
        CHANNELS_LAST=memory_format(output) == torch.channels_last,
        PATCH=tile.patch,
        BLOCK_M=tile.positions,
        BLOCK_N=tile.outputs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **problem.constants(),
        **constants,
    )
