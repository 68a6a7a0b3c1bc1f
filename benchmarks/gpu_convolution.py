# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution on a GPU: the layers, and what is timed on them.

That is cuDNN's convolution, pliant in its types and with deterministic gradients, its path without Triton, and peers
where they are installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from benchmarks.gpu_timing import Run, deterministic
from pliant._geometry import ConvGeometry
from pliant.ops import deform_conv2d
from pliant.ops._deform_conv2d.gpu_columns import deform_conv2d_columns, deform_conv2d_columns_backward
from pliant.ops._dispatch import Impl

Tensors = dict[str, Tensor]
IMPL: Impl = "triton"  # explicit, so that no other path's time is ever taken for the kernels'
UNIT = ConvGeometry((1, 1), (1, 1), (1, 1))
SAMPLED = ("input", "offset", "weight", "mask")


@dataclass(frozen=True)
class ConvCase:
    """One 3x3 layer: (N, C, H, W) to O channels, and how its offsets are spread."""

    name: str
    shape: tuple[int, int, int, int]
    outputs: int
    offsets: str
    groups: int = 1

    baseline = "cuDNN conv2d"

    def __str__(self) -> str:
        groups = "" if self.groups == 1 else f" in {self.groups} groups"
        return f"{self.name} {self.shape} -> {self.outputs}{groups}, {self.offsets} offsets"

    def tensors(self, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> Tensors:
        """Return input, offset, weight, mask and the gradient of the output, channels_last."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        N, C, H, W = self.shape
        C_group = C // self.groups
        offset = torch.zeros(N, 18, H, W)
        if self.offsets == "smooth":
            offset = avg_pool2d(normal(N, 18, H + 8, W + 8), 9, 1) * 9
        elif self.offsets == "independent":
            offset = normal(N, 18, H, W) * 3
        t = {
            "input": normal(N, C, H, W),
            "weight": normal(self.outputs, C_group, 3, 3) / (9 * C_group) ** 0.5,
            "mask": torch.rand(N, 9, H, W, generator=generator),
            "grad": normal(N, self.outputs, H, W),
        }
        t = {name: tensor.to(device, dtype) for name, tensor in t.items()} | {"offset": offset.to(device)}
        return {name: tensor.contiguous(memory_format=torch.channels_last) for name, tensor in t.items()}

    def check(self) -> None:
        """Raise unless pliant's result for a corner of the layer agrees with float64 on the CPU."""
        t = replace(self, shape=(1, self.shape[1], 9, 11)).tensors()
        fast = _pliant(t, self.groups)
        d = {name: tensor.cpu().double() for name, tensor in t.items()}
        slow = deform_conv2d(d["input"], d["offset"], d["weight"], padding=1, mask=d["mask"], impl="reference")
        torch.testing.assert_close(fast.cpu().double(), slow, atol=3e-2, rtol=2e-2)

    def contenders(self, *, training: bool, device: str = "cuda") -> dict[str, Run]:
        """Return what runs the layer, by name; `training` is forward and backward for all inputs together."""
        t = self.tensors(device=device)
        half, wide = ({name: tensor.to(dtype) for name, tensor in t.items()} for dtype in (torch.half, torch.float))

        def timed(function: Callable[[Tensors, int], Tensor], tensors: Tensors, *names: str) -> Run:
            return _timed(function, tensors, names or SAMPLED, self.groups, training)

        runs = {
            self.baseline: timed(_plain, t, "input", "weight"),
            "cuDNN conv2d float32": timed(_plain, wide, "input", "weight"),
            "pliant": timed(_pliant, t),
            "pliant float16": timed(_pliant, half | {"offset": t["offset"]}),
            "pliant float32": timed(_pliant, wide),
            "pliant without Triton": _columns(t, training),
        }
        if training:
            runs["pliant deterministic"] = deterministic(runs["pliant"])
        if importlib.util.find_spec("torchvision"):
            runs["torchvision under autocast"] = timed(_torchvision_autocast, wide)
            runs["torchvision float16"] = timed(_torchvision, half)
        if importlib.util.find_spec("deformops"):
            runs["deformops"] = timed(_deformops, t | {"offset": t["offset"].to(t["input"].dtype)})
        return runs


def _timed(
    function: Callable[[Tensors, int], Tensor], tensors: Tensors, names: tuple[str, ...], groups: int, training: bool
) -> Run:
    if not training:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(tensors, groups)

        return forward
    leaves = {name: tensors[name].detach().requires_grad_() for name in names}

    def forward_backward() -> object:
        output = function(tensors | leaves, groups)
        return output, *torch.autograd.grad(output, list(leaves.values()), tensors["grad"].to(output.dtype))

    return forward_backward


def _columns(t: Tensors, training: bool) -> Run:
    x, offset, weight, mask = (t[name] for name in SAMPLED)

    def run() -> object:
        with torch.no_grad():
            output = deform_conv2d_columns(x, offset, weight, None, UNIT, mask)
            if not training:
                return output
            g = deform_conv2d_columns_backward(t["grad"], x, offset, weight, UNIT, mask)
            return output, g[0], g[1], g[2], g[4]

    return run


def _plain(t: Tensors, groups: int) -> Tensor:
    return conv2d(t["input"], t["weight"], padding=1, groups=groups)


def _pliant(t: Tensors, groups: int) -> Tensor:
    return deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"], impl=IMPL)


def _torchvision(t: Tensors, groups: int) -> Tensor:
    import torchvision

    result: Tensor = torchvision.ops.deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"])
    return result


def _torchvision_autocast(t: Tensors, groups: int) -> Tensor:
    with torch.autocast(t["input"].device.type, dtype=torch.bfloat16):
        return _torchvision(t, groups)


def _deformops(t: Tensors, groups: int) -> Tensor:
    from deformops.integrations import torchvision as entry

    result: Tensor = entry.deform_conv2d(t["input"], t["offset"], t["weight"], padding=(1, 1), mask=t["mask"])
    return result
