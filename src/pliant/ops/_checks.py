# SPDX-License-Identifier: Apache-2.0
"""The rules that every operator has for a tensor: its type, its device, its dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant._check import fail

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(name: str, tensor: Tensor, input: Tensor) -> None:
    """Raise unless `tensor` is a floating tensor on the device of `input`."""
    if not isinstance(tensor, Tensor):
        fail(name, "must be a torch.Tensor", type(tensor).__name__, f"pass torch.as_tensor({name})", kind=TypeError)
    if tensor.dtype not in FLOATING:
        rule = "must be float16, bfloat16, float32 or float64"
        fail(name, rule, tensor.dtype, f"pass {name}.float()", kind=TypeError)
    if tensor.device != input.device:
        fail(name, f"must be on input's device {input.device}", tensor.device, f"pass {name}.to(input.device)")


def check_dim(name: str, tensor: Tensor, allowed: Sequence[int], layout: str) -> None:
    """Raise unless `tensor` has one of the `allowed` numbers of dimensions."""
    if tensor.dim() not in allowed:
        fail(name, f"must be {layout}", f"{tensor.dim()} dimensions {shape_text(tensor.shape)}", "reshape it")


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as people write it: `(2, 3)`."""
    return f"({', '.join(str(s) for s in shape)})"
