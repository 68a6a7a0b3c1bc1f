# SPDX-License-Identifier: Apache-2.0
"""Times the fused kernel's tiles for one layer on the GPU at hand, where somebody asks for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

from torch import Tensor

from pliant._check import counted, fail
from pliant._geometry import ConvGeometry
from pliant.ops import _triton
from pliant.ops._deform_conv2d.gpu_forward import deform_conv2d_triton, is_elementwise, layer_of
from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution
from pliant.ops._deform_conv2d.gpu_tiles import ELEMENTWISE_CHANNELS, Tile, candidates, fused_tile, remember

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

    Tiles only decide in which order sums are rounded; those that need more memory than the GPU's processors have are
    left out. `timer` takes a function and returns its milliseconds; Triton's `do_bench`, which repeats it with a cold
    cache, is the default.

    Raises:
        ValueError: the layer has no tiles to choose from.
    """
    from triton.runtime.errors import OutOfResources

    if timer is None:
        from triton.testing import do_bench

        timer = do_bench
    kind = _triton.architecture(input.device)
    problem = GpuConvolution(input, offset, weight, geometry, mask)
    if is_elementwise(problem):
        least = counted(ELEMENTWISE_CHANNELS, "channel")
        rule = f"must have more than {least} in a group, since others multiply without tiles"
        fail("weight", rule, f"{problem.per_group}", "leave such a layer as it is")
    layer = layer_of(problem)
    times: dict[Tile, float] = {}
    for tile in candidates(fused_tile(kind, layer)):
        run = functools.partial(deform_conv2d_triton, input, offset, weight, bias, geometry, mask, tile=tile)
        with contextlib.suppress(OutOfResources):
            times[tile] = timer(run)
    remember(kind, layer, min(times, key=lambda tile: times[tile]))
    return times
