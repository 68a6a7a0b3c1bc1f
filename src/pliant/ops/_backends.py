# SPDX-License-Identifier: Apache-2.0
"""Which implementations of each operator can run on this machine, and why the others cannot."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch

from pliant.ops import _triton

if TYPE_CHECKING:
    from pliant.ops._native.library import NativeLibrary

OPERATORS = ("deform_conv2d", "deform_roi_pool", "deform_ps_roi_pool")


class Backend(NamedTuple):
    """One implementation of one operator: whether it can run here, and the reason where it cannot."""

    operator: str
    implementation: str
    available: bool
    reason: str


def native_library() -> NativeLibrary | None:
    """Return the compiled CPU library, or None where this installation has none."""
    from pliant.ops._native import library

    return library.load()


def describe() -> list[Backend]:
    """Return a row for each operator and implementation, in the order in which `impl="auto"` prefers them."""
    native = native_library()
    rows = (
        ("native (CPU)", native is not None, why_no_native() if native is None else native.describe()),
        ("triton (GPU)", *_triton.describe()),
        ("reference (any device)", True, "plain PyTorch, differentiable to any order"),
    )
    return [Backend(operator, *row) for operator in OPERATORS for row in rows]


def why_no_triton(device: torch.device) -> str | None:
    """Return why Triton cannot run on tensors of `device`, or None where it can."""
    return _triton.why_not(device)


@functools.cache
def _warn_once(text: str, stacklevel: int) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=stacklevel)


def warn_columns(operator: str, reason: str) -> None:
    """Say once that PyTorch's own operations are used on a GPU, and why Triton's kernels are not."""
    _warn_once(f"pliant.ops.{operator} runs on PyTorch's own operations, a band of rows at a time: {reason}", 5)


def warn_reference(operator: str, device: torch.device) -> None:
    """Say once for each kind of device that the slow reference runs on it, and what would be faster."""
    if device.type == "cpu":
        advice = f"{why_no_native()}; reinstall pliant with a C++17 compiler and PLIANT_NO_NATIVE unset"
    else:
        advice = f"{why_no_triton(device)}; pass impl='reference' to accept it without this warning"
    _warn_once(f"pliant.ops.{operator} runs its slow reference implementation on {device.type}: {advice}", 3)


def why_no_native() -> str:
    """Return the reason why there is no compiled CPU library here."""
    from pliant.ops._native import library

    return library.why_not()


def warn_transform(operator: str) -> None:
    """Say once that forward-mode and `torch.func` derivatives run through the reference."""
    text = "forward-mode and torch.func derivatives run through the slow reference; "
    _warn_once(f"pliant.ops.{operator}: {text}pass impl='reference' to accept it without this warning", 6)
