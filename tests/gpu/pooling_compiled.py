# SPDX-License-Identifier: Apache-2.0
"""Run as a program: compile what RoI pooling would launch for one architecture, without its GPU; print JSON.

As compiled.py does for the convolution.

    python -m gpu.pooling_compiled sm_90
"""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode

from gpu.compiled import TARGETS, Driver, compile_launch, report
from pliant.ops import _triton
from pliant.ops._pooling.gpu_pooling import GPU
from pliant.ops.deform_ps_roi_pool import bins as ps
from pliant.ops.deform_roi_pool import bins as plain

TYPES = ("bfloat16", "float32")


def launches(operator: str, dtype: torch.dtype, *, deterministic: bool) -> dict[str, tuple[Any, ...]]:
    """Return the launch of each kernel in a forward and a backward pass of a detector's size."""
    found: dict[str, tuple[Any, ...]] = {}

    def record(kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **options: Any) -> None:
        found.setdefault(kernel.__name__, (kernel, grid, arguments, options))

    torch.use_deterministic_algorithms(deterministic)
    with FakeTensorMode(), mock.patch.object(_triton, "launch", record):
        rois = torch.empty(512, 5, device="cuda")
        if operator == "plain":
            x = torch.empty(2, 256, 50, 84, device="cuda", dtype=dtype)
            maps = (rois.new_empty(512, 2, 7, 7), rois.new_empty(512, 1, 7, 7))
            attributes: tuple[Any, ...] = ((7, 7), 1 / 16, 2, 0.1)
            output = plain.pool_by(GPU, x, rois, *maps, *attributes)
            plain.pool_backward_by(GPU, output, x, rois, *maps, *attributes, [True] * 4)
        else:
            x = torch.empty(2, 21 * 49, 38, 63, device="cuda", dtype=dtype)
            maps = (rois.new_empty(512, 42, 7, 7), rois.new_empty(512, 21, 7, 7))
            attributes = ((7, 7), 21, 7, (7, 7), 4, 1 / 16, 0.1)
            output = ps.pool_by(GPU, x, rois, *maps, *attributes)
            ps.pool_backward_by(GPU, output, x, rois, *maps, *attributes, [True] * 3)
    torch.use_deterministic_algorithms(False)
    return found


def main() -> None:
    target, _ = TARGETS[sys.argv[1]]
    triton.runtime.driver.set_active(Driver(target))
    for operator in ("plain", "ps"):
        for type_name in TYPES:
            deterministic = operator == "ps" and type_name == "float32"
            for name, launch in launches(operator, getattr(torch, type_name), deterministic=deterministic).items():
                row = {"operator": operator, "type": type_name, "kernel": name}
                print(json.dumps(row | report(compile_launch(*launch), target)), flush=True)


if __name__ == "__main__":
    main()
