# SPDX-License-Identifier: Apache-2.0
"""How the backward pass on a GPU is cut so that its memory stays bounded: slices of channels, chunks of positions.

The cut follows from shapes alone, so that CUDA graphs can capture it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution

WORKSPACE_BYTES = 64 << 20  # of all that the backward pass holds beyond its arguments and results
SORTED_BYTES = 16 << 20  # of all samples' cells, up to which they are sorted once for all chunks
SCATTER_ELEMENTS = 8 << 20  # of the columns, up to which atomics beat sorting
LEAST_WIDTH = 16  # channels of a slice
LEAST_POSITIONS = 64  # of a chunk


@dataclass(frozen=True)
class GroupSlice:
    """Channels [begin, begin + width): whole weight groups or a part of one, and likewise of offset groups."""

    begin: int
    width: int
    per_group: int  # channels of one weight group inside the slice
    run: int  # channels of one offset group inside the slice


@dataclass(frozen=True)
class Chunk:
    """Positions [first, first + count), which lie in `images` images from `image` on."""

    first: int
    count: int
    image: int
    images: int


@dataclass(frozen=True)
class BackwardPlan:
    """The cut of one backward pass."""

    slices: list[GroupSlice]
    chunks: list[Chunk]
    scatter: bool  # the image's gradient is added up by atomics
    whole_images: bool  # no chunk ends inside an image
    sorts_once: bool  # all samples' cells fit into memory together


def plan_backward(problem: GpuConvolution, *, deterministic: bool) -> BackwardPlan:
    """Return the widest slices for which an image fits into the workspace, and chunks of as many images as fit.

    Where no slice of LEAST_WIDTH channels is thin enough, images are cut too.
    """
    P = problem.Ho * problem.Wo
    widths = [w for w in _widths(problem) if w >= LEAST_WIDTH] or [problem.C]
    fitting = [w for w in widths if _bytes(problem, w, P, 1) <= WORKSPACE_BYTES]
    if fitting:
        width = fitting[0]
        counts = range(1, problem.N + 1)
        images = max((n for n in counts if n == 1 or _bytes(problem, width, n * P, n) <= WORKSPACE_BYTES), default=1)
        chunks = [
            Chunk(n * P, min(images, problem.N - n) * P, n, min(images, problem.N - n))
            for n in range(0, problem.N, images)
        ]
    else:
        width = widths[-1]
        chunks = _cut_images(problem, width)
    columns = problem.M * problem.K * problem.C
    one_chunk = len(chunks) == 1 and width == problem.C
    image_bytes = problem.N * problem.H * problem.W * problem.C * problem.sum_dtype.itemsize
    samples = problem.M * problem.K * problem.G
    return BackwardPlan(
        slices=[_slice(problem, begin, width) for begin in range(0, problem.C, width)],
        chunks=chunks,
        scatter=one_chunk and columns <= SCATTER_ELEMENTS and 2 * image_bytes <= WORKSPACE_BYTES and not deterministic,
        whole_images=bool(fitting),
        sorts_once=bool(fitting) and samples * _sample_bytes(problem) <= SORTED_BYTES,
    )


def _slice(problem: GpuConvolution, begin: int, width: int) -> GroupSlice:
    return GroupSlice(begin, width, min(width, problem.per_group), min(width, problem.C // problem.G))


def _widths(problem: GpuConvolution) -> list[int]:
    """Return the widths of slices that keep or divide weight groups and offset groups, widest first."""
    divisors = [w for w in range(problem.C, 0, -1) if problem.C % w == 0]
    runs = (problem.per_group, problem.C // problem.G)
    return [w for w in divisors if all(w % run == 0 or run % w == 0 for run in runs)]


def _cut_images(problem: GpuConvolution, width: int) -> list[Chunk]:
    """Return chunks of a part of an image each."""
    P = problem.Ho * problem.Wo
    fixed = _bytes(problem, width, 0, 1)
    each = _bytes(problem, width, P, 1) - fixed
    count = max(LEAST_POSITIONS, (WORKSPACE_BYTES - fixed) * P // max(1, each))
    return [Chunk(n * P + first, min(count, P - first), n, 1) for n in range(problem.N) for first in range(0, P, count)]


def _sample_bytes(problem: GpuConvolution) -> int:
    """Return the bytes of a sample's cell, place and modulation, and of what sorting it takes."""
    return 36 + 3 * problem.sum_dtype.itemsize


def _bytes(problem: GpuConvolution, width: int, positions: int, images: int) -> int:
    """Return the bytes that a chunk takes beside arguments and results."""
    item, wide = problem.dtype.itemsize, problem.sum_dtype.itemsize
    s = _slice(problem, 0, width)
    groups_here = width // s.run
    weights = problem.O // problem.groups * problem.K * width * (item + 2 * wide)
    columns = 0 if problem.is_depthwise else 2 * problem.K * width * item
    partial = problem.K * width * wide // 32 if problem.is_depthwise else 0
    rows = problem.O * item
    samples = problem.K * groups_here * _sample_bytes(problem)
    cells = 12 * groups_here * (problem.H + 1) * (problem.W + 1)
    image = problem.H * problem.W * width * wide
    maps = 0 if s.run == problem.C // problem.G else 3 * problem.G * problem.K * problem.M * wide
    return weights + maps + positions * (columns + partial + rows + samples) + images * (cells + image)
