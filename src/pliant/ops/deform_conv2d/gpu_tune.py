# SPDX-License-Identifier: Apache-2.0
"""Times the fused kernel's tiles for one layer on the GPU at hand, where somebody asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from pliant._geometry import ConvGeometry
from pliant.ops import _triton
from pliant.ops.deform_conv2d.gpu_forward import deform_conv2d_triton, layer_of
from pliant.ops.deform_conv2d.gpu_problem import GpuProblem
from pliant.ops.deform_conv2d.gpu_tiles import Tile, candidates, fused_tile, remember

Timer = Callable[[Callable[[], object]], float]


def tune_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
    *,
    timer: Timer | None = None,
) -> dict[Tile, float]:
    """Return the milliseconds of each tile for this layer; calls of its kind take the fastest until the process ends.

    Tiles only decide in which order sums are rounded. `timer` takes a function and returns its milliseconds; Triton's
    `do_bench`, which repeats it with a cold cache, is the default.
    """
    if timer is None:
        from triton.testing import do_bench

        timer = do_bench
    kind = _triton.architecture(input.device)
    layer = layer_of(GpuProblem(input, offset, weight, geometry, mask))
    times: dict[Tile, float] = {}
    for tile in candidates(fused_tile(kind, layer)):
        run = functools.partial(deform_conv2d_triton, input, offset, weight, bias, geometry, mask, tile=tile)
        times[tile] = timer(run)
    remember(kind, layer, min(times, key=lambda tile: times[tile]))
    return times
