# SPDX-License-Identifier: Apache-2.0
"""The rules that every operator has for a tensor: its type, its device, its dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from pliant._check import counted, fail, shown
from pliant._geometry import whole

LARGEST = torch.finfo(torch.float32).max  # of a factor, since coordinates are float32 where the image is
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(name: str, tensor: Tensor, input: Tensor) -> None:
    """Raise unless `tensor` is a floating tensor on the device of `input`."""
    if not isinstance(tensor, Tensor):
        fail(
            name,
            "must be a tensor",
            f"a value of type {type(tensor).__name__}",
            f"pass torch.as_tensor({name})",
            kind=TypeError,
        )
    if tensor.dtype not in FLOATING:
        rule = "must be float16, bfloat16, float32 or float64"
        fail(name, rule, tensor.dtype, f"pass {name}.float()", kind=TypeError)
    if tensor.device != input.device:
        fail(name, f"must be on input's device {input.device}", tensor.device, f"pass {name}.to(input.device)")


def check_dim(name: str, tensor: Tensor, allowed: Sequence[int], layout: str) -> None:
    """Raise unless `tensor` has one of the `allowed` numbers of dimensions."""
    if tensor.dim() not in allowed:
        fail(name, f"must be {layout}", f"the shape {shape_text(tensor.shape)}", "reshape it")


def check_image(input: Tensor) -> None:
    """Raise unless `input` is (N, C, H, W) with pixels to read."""
    check_tensor("input", input, input)
    check_dim("input", input, (4,), "(N, C, H, W)")
    if min(input.shape[2:]) < 1:
        fail(
            "input", "must have at least one pixel", f"the shape {shape_text(input.shape)}", "pass maps of 1x1 or more"
        )


def check_maps_of_boxes(name: str, tensor: Tensor, wanted: Sequence[int], reason: str) -> None:
    """Raise unless `tensor` has exactly the shape `wanted`, which begins with the number of boxes.

    Nothing is written into a text before it is wrong: text would fix the number of boxes in a compiled graph.
    """
    if tuple(tensor.shape) != tuple(wanted):
        rule = f"must have the shape {shape_text(wanted)} for {counted(wanted[0], 'box')} and {reason}"
        fix = f"reshape it, or predict it, as {shape_text(wanted)}"
        fail(name, rule, f"the shape {shape_text(tensor.shape)}", fix)


def integer(name: str, value: object, minimum: int | None = None) -> int:
    """Return `value` as an integer, of at least `minimum` where there is one."""
    number = whole(value)
    if number is None:
        least = 0 if minimum is None else minimum
        fail(name, "must be an integer", shown(value), f"write {name}={least}, for example", kind=TypeError)
    if minimum is not None and number < minimum:
        fail(name, f"must be at least {minimum}", shown(value), f"use {minimum} or more")
    return number


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return `value`, also of NumPy or a tensor without dimensions, as a finite number, above zero where `positive`."""
    # A number that is compiled as unknown is asked for its class alone, which PyTorch 2.11 can trace.
    plain = isinstance(value, (int, float)) or (getattr(value, "ndim", None) == 0 and hasattr(value, "__float__"))
    if not plain or isinstance(value, bool):
        fail(name, "must be a number", shown(value), f"write {name}=1.0, for example", kind=TypeError)
    found = float(value)
    if not -LARGEST <= found <= LARGEST or (positive and found <= 0):
        rule = "must be finite and above 0" if positive else "must be finite"
        fail(name, rule, shown(value), f"write {name}=1.0, for example")
    return found


def is_wrapped(tensor: Tensor, kind: Callable[[Tensor], bool]) -> bool:
    """Say whether a transform of `torch.func` is of a `kind` among those that wrap `tensor`."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        if kind(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def compute_dtype(input: Tensor) -> torch.dtype:
    """Return the type of coordinates and interpolation: float32, or wider where the image is."""
    return torch.promote_types(input.dtype, torch.float32)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as people write it: `(2, 3)`."""
    return f"({', '.join(str(s) for s in shape)})"
