# SPDX-License-Identifier: Apache-2.0
"""RoI pooling on a GPU: torchvision's RoIAlign, and pliant's pooling in its types and with deterministic gradients.

RoIAlign, which does less, is what all is compared with: under autocast torchvision runs it in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_timing import Run, deterministic
from benchmarks.roi_pooling import RoICase, Tensors, timed
from pliant.ops._dispatch import Impl

IMPL: Impl = "triton"  # explicit, so that no other path's time is ever taken for the kernels'
SMALL = ("offset", "mask", "grad")


@dataclass(frozen=True)
class PoolingCase:
    """The second stage of a detector that trains on two images: boxes on one map, in a type each contender has."""

    name: str
    boxes: RoICase

    baseline = "roi_align float32"

    def __str__(self) -> str:
        return f"{self.name} {self.boxes}".removesuffix(" float32")

    def tensors(self, dtype: torch.dtype, layout: torch.memory_format, device: str) -> Tensors:
        """Return what the boxes' case does, in `dtype` but for the boxes."""
        t = {name: tensor.to(device) for name, tensor in self.boxes.tensors().items()}
        t |= {name: t[name].to(dtype) for name in SMALL}
        return t | {"input": t["input"].to(dtype).contiguous(memory_format=layout)}

    def check(self) -> None:
        """Raise unless pliant's result agrees with RoIAlign, and for a few boxes with float64 on the CPU."""
        t = self.tensors(torch.float32, torch.channels_last, "cuda")
        rigid = self.boxes.rigid(t, IMPL)
        torch.testing.assert_close(rigid, self.boxes.align(t), atol=1e-4, rtol=1e-4)
        few = t | {name: t[name][:8] for name in ("rois", "offset", "mask")}
        fast = self.boxes.deformed(few, IMPL)
        slow = self.boxes.deformed({name: tensor.cpu().double() for name, tensor in few.items()}, "reference")
        torch.testing.assert_close(fast.cpu().double(), slow, atol=1e-4, rtol=1e-4)

    def contenders(self, *, training: bool, device: str = "cuda") -> dict[str, Run]:
        """Return what runs the case, by name; `training` is forward and backward for the tensors that are needed."""
        case = self.boxes
        rigid, deformed = (functools.partial(run, impl=IMPL) for run in (case.rigid, case.deformed))

        def contender(run: Callable[[Tensors], Tensor], dtype: torch.dtype, *names: str) -> Run:
            # RoIAlign reads contiguous maps, and would copy others.
            layout = torch.contiguous_format if run == case.align else torch.channels_last
            return timed(run, self.tensors(dtype, layout, device), ["input", *names], training)

        runs = {
            self.baseline: contender(case.align, torch.float32),
            "roi_align float16": contender(case.align, torch.float16),
            "pliant rigid": contender(rigid, torch.bfloat16),
            "pliant deformed": contender(deformed, torch.bfloat16, "offset", "mask"),
            "pliant deformed float16": contender(deformed, torch.float16, "offset", "mask"),
            "pliant deformed float32": contender(deformed, torch.float32, "offset", "mask"),
        }
        if training:
            runs["pliant with boxes"] = contender(deformed, torch.bfloat16, "rois", "offset", "mask")
            runs["pliant deterministic"] = deterministic(runs["pliant deformed"])
        return runs
