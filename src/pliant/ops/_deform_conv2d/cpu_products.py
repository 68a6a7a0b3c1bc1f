# SPDX-License-Identifier: Apache-2.0
"""Products in bfloat16 by PyTorch's own library, on processors that have instructions for them.

oneDNN uses AMX and AVX512-BF16, which the kernels of pliant do not have: there a tile of columns is sampled in bfloat16
and handed over. Everywhere else, and for few channels without AMX, bfloat16 is storage alone and the fused kernels are
faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.ops._deform_conv2d.cpu_problem import TILE_BYTES, ChannelSlice, CpuConvolution, TileArguments, positions
from pliant.ops._native.library import ConvGradients

MAX_POSITIONS = 2048  # of a tile, whose columns should stay in a cache
FEWEST_CHANNELS = 256  # and outputs, for which columns are worth their way through memory, unless there is AMX


def has_bfloat16_products() -> bool:
    """Return whether PyTorch multiplies bfloat16 matrices by instructions for them."""
    if not torch.backends.mkldnn.is_available() or not torch._C._get_mkldnn_enabled():
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def multiplies_faster(problem: CpuConvolution) -> bool:
    """Return whether a problem's products are PyTorch's: one weight group, many channels in bfloat16."""
    if problem.groups > 1 or problem.input.dtype != torch.bfloat16 or not has_bfloat16_products():
        return False
    return bool(torch.cpu._is_amx_tile_supported()) or min(problem.C, problem.O) >= FEWEST_CHANNELS


def most_positions(problem: CpuConvolution) -> int:
    """Return how many positions' columns are at most `TILE_BYTES`."""
    row = problem.K * problem.C * problem.input.dtype.itemsize
    return max(1, min(MAX_POSITIONS, TILE_BYTES // row))


def _columns(problem: CpuConvolution, count: int) -> Tensor:
    return problem.scratch.take("columns", (count, problem.K * problem.C), problem.input.dtype)


def convolve(problem: CpuConvolution, s: ChannelSlice, bias: Tensor | None, output: Tensor) -> None:
    """Write the forward of a problem with one slice of channels."""
    weight = problem.weight_rows(s, output.dtype)[0].T  # (K*C, O)
    b = None if bias is None else bias.to(output.dtype)
    most = most_positions(problem)
    for run in problem.runs(s, most):
        for first, last in problem.tiles(most):
            result = positions(output, run.n, slice(None))[:, first:last]
            columns = _columns(problem, result.shape[0] * result.shape[1])
            problem.native.deform_sample(*problem.tile(s, run, first, last), columns.data_ptr())
            product = torch.mm(columns, weight) if b is None else torch.addmm(b, columns, weight)
            result.copy_(product.view(result.shape))


def columns_backward(
    problem: CpuConvolution,
    head: TileArguments,
    u: Tensor,
    weight: Tensor,
    gradients: ConvGradients,
    grad_weight: Tensor | None,
) -> None:
    """Add one tile's gradients, of which `u` (images, count, O) is the output's and `weight` (O, K*C) in bfloat16."""
    u = u.flatten(0, 1)
    columns = _columns(problem, u.shape[0])
    if gradients.image or gradients.shares:
        torch.mm(u, weight, out=columns)
        problem.native.deform_sample_backward(*head, columns.data_ptr(), gradients)
    else:
        problem.native.deform_sample(*head, columns.data_ptr())
    if grad_weight is not None:
        grad_weight += torch.mm(u.T, columns)
