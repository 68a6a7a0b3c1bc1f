# SPDX-License-Identifier: Apache-2.0
"""The rules that every operator has for a tensor: its type, its device, its dimensions."""

from __future__ import annotations

import math
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


def check_image(input: Tensor) -> None:
    """Raise unless `input` is (N, C, H, W) with pixels to read."""
    check_tensor("input", input, input)
    check_dim("input", input, (4,), "(N, C, H, W)")
    if min(input.shape[2:]) < 1:
        fail("input", "must have at least one pixel", shape_text(input.shape), "pass maps of 1x1 or more")


def check_maps_of_boxes(name: str, tensor: Tensor, wanted: Sequence[int], reason: str) -> None:
    """Raise unless `tensor` has exactly the shape `wanted`, which begins with the number of boxes.

    Nothing is written into a text before it is wrong: text would fix the number of boxes in a compiled graph.
    """
    if tuple(tensor.shape) != tuple(wanted):
        rule = f"must be {shape_text(wanted)} for {wanted[0]} boxes and {reason}"
        fail(name, rule, shape_text(tensor.shape), f"reshape or predict it as {shape_text(wanted)}")


def check_integer(name: str, value: int, minimum: int | None = None) -> None:
    """Raise unless `value` is an integer, of at least `minimum` where there is one."""
    least = 0 if minimum is None else minimum
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        fail(name, "must be an integer", repr(value), f"write {name}={least}, for example", kind=TypeError)
    if minimum is not None and value < minimum:
        fail(name, f"must be at least {minimum}", repr(value), f"use {minimum} or more")


def check_finite(name: str, value: float, *, positive: bool = False) -> None:
    """Raise unless `value` is a finite number, and above zero where it must be `positive`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        fail(name, "must be a number", repr(value), f"write {name}=1.0, for example", kind=TypeError)
    if not -math.inf < value < math.inf or (positive and value <= 0):
        rule = "must be finite and above 0" if positive else "must be finite"
        fail(name, rule, repr(value), f"write {name}=1.0, for example")


def compute_dtype(input: Tensor) -> torch.dtype:
    """Return the type of coordinates and interpolation: float32, or wider where the image is."""
    return torch.promote_types(input.dtype, torch.float32)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as people write it: `(2, 3)`."""
    return f"({', '.join(str(s) for s in shape)})"
