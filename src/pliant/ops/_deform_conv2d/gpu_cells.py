# SPDX-License-Identifier: Apache-2.0
"""The samples of a chunk sorted by the cell of the image that they lie in, so that each pixel can find its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pliant.ops import _triton
from pliant.ops._deform_conv2d.gpu_plan import Chunk
from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution
from pliant.ops._deform_conv2d.gpu_tiles import CELLS
from pliant.ops._deform_conv2d.triton_backward import sample_cells


class Cells(NamedTuple):
    """Samples (position, tap, offset group), of `groups` offset groups from `group` on, in the order of their cells."""

    order: Tensor  # (samples,) which sample
    start: Tensor  # (cells + 1,) where in `order` each cell begins
    place: Tensor  # (3, samples) position in the cell, vertical and horizontal, and modulation
    first: int  # position of sample 0
    image: int
    group: int
    groups: int


def cells_of(problem: GpuConvolution, chunk: Chunk, group: int, groups: int) -> Cells:
    """Return a chunk's samples in the order of their cells; of equal cells, in the order of the samples."""
    p = problem
    total = chunk.count * p.K * groups
    key = torch.empty(total, dtype=torch.int32, device=p.device)
    place = torch.empty((3, total), dtype=p.sum_dtype, device=p.device)
    _triton.launch(
        sample_cells,
        (-(-total // CELLS),),
        p.device,
        *(p.offset, p.mask, key, place, total),
        *p.sizes(),
        *p.map_strides(),
        *p.steps(),
        *(chunk.first, chunk.image, chunk.images, group),
        **p.constants(),
        GROUPS_HERE=groups,
        BLOCK=CELLS,
        num_warps=4,
    )
    in_order, order = torch.sort(key, stable=True)
    cells = torch.arange(chunk.images * groups * (p.H + 1) * (p.W + 1) + 1, dtype=torch.int32, device=p.device)
    start = torch.searchsorted(in_order, cells, out_int32=True)
    return Cells(order, start, place, chunk.first, chunk.image, group, groups)
