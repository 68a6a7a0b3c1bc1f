# SPDX-License-Identifier: Apache-2.0
"""What is timed on a GPU: cuDNN's convolution, pliant, its path without Triton, and the peers that are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pliant._geometry import ConvGeometry
from pliant.ops import deform_conv2d
from pliant.ops.deform_conv2d.gpu_columns import deform_conv2d_columns, deform_conv2d_columns_backward

Run = Callable[[], object]
Tensors = dict[str, Tensor]
UNIT = ConvGeometry((1, 1), (1, 1), (1, 1))
SAMPLED = ("input", "offset", "weight", "mask")


def contenders(t: Tensors, *, training: bool) -> dict[str, Run]:
    """Return what runs a bfloat16 case, by name; `training` is forward and backward for all inputs together."""
    half = {name: tensor.half() for name, tensor in t.items()}
    wide = {name: tensor.float() for name, tensor in t.items()}
    runs = {
        "cuDNN conv2d": _timed(_plain, t, ("input", "weight"), training),
        "cuDNN conv2d float32": _timed(_plain, wide, ("input", "weight"), training),
        "pliant": _timed(_pliant, t, SAMPLED, training),
        "pliant float16": _timed(_pliant, half, SAMPLED, training),
        "pliant float32": _timed(_pliant, wide, SAMPLED, training),
        "pliant without Triton": _columns(t, training),
    }
    if importlib.util.find_spec("torchvision"):
        runs["torchvision under autocast"] = _timed(_torchvision_autocast, wide, SAMPLED, training)
        runs["torchvision float16"] = _timed(_torchvision, half, SAMPLED, training)
    if importlib.util.find_spec("deformops"):
        runs["deformops"] = _timed(_deformops, t | {"offset": t["offset"].to(t["input"].dtype)}, SAMPLED, training)
    return runs


def _timed(function: Callable[[Tensors], Tensor], tensors: Tensors, names: tuple[str, ...], training: bool) -> Run:
    if not training:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(tensors)

        return forward
    leaves = {name: tensors[name].detach().requires_grad_() for name in names}

    def forward_backward() -> object:
        output = function(tensors | leaves)
        return torch.autograd.grad(output, list(leaves.values()), tensors["grad"].to(output.dtype))

    return forward_backward


def _columns(t: Tensors, training: bool) -> Run:
    x, offset, weight, mask = (t[name] for name in SAMPLED)

    def run() -> object:
        with torch.no_grad():
            output = deform_conv2d_columns(x, offset, weight, None, UNIT, mask)
            if not training:
                return output
            return deform_conv2d_columns_backward(t["grad"], x, offset, weight, mask, UNIT)

    return run


def _plain(t: Tensors) -> Tensor:
    return conv2d(t["input"], t["weight"], padding=1)


def _pliant(t: Tensors) -> Tensor:
    return deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"], impl="triton")


def _torchvision(t: Tensors) -> Tensor:
    import torchvision

    result: Tensor = torchvision.ops.deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"])
    return result


def _torchvision_autocast(t: Tensors) -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return _torchvision(t)


def _deformops(t: Tensors) -> Tensor:
    from deformops.integrations import torchvision as entry

    result: Tensor = entry.deform_conv2d(t["input"], t["offset"], t["weight"], padding=(1, 1), mask=t["mask"])
    return result
