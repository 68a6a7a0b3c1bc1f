# SPDX-License-Identifier: Apache-2.0
"""Whether a call is being written down for another program, which knows other libraries' operators and not pliant's.

`torch.jit.trace` is what OpenVINO and other converters call; PyTorch's newer ONNX exporter writes nodes of the ONNX
standard by `torch.onnx.ops`. `torch.compile`, `torch.export` and `torch.jit.script` keep pliant's operators.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from types import FrameType
from typing import Any

import torch
from torch import Tensor

RECORDED = (
    torch.float32,
    torch.float64,
)  # the types that torchvision's operators compute coordinates exactly enough in

HAS_ONNX_NODES = hasattr(torch.onnx, "ops")  # since PyTorch 2.8


def records_trace(*tensors: Tensor | None) -> bool:
    """Say whether `torch.jit.trace` runs, and torchvision has operators for tensors of these types."""
    return is_traced() and _of_one_type(tensors) and _has_torchvision()


def is_traced() -> bool:
    """Say whether `torch.jit.trace` runs."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing


def records_onnx(*tensors: Tensor | None) -> bool:
    """Say whether `torch.onnx.export(dynamo=True)` runs, for tensors of one type."""
    # The first question is cheap, and false for all that is not captured.
    compiling = HAS_ONNX_NODES and torch.compiler.is_compiling()
    return compiling and torch.onnx.is_in_onnx_export() and _of_one_type(tensors)


def onnx_opset() -> int | None:
    """Return the version that `torch.onnx.export` writes, which PyTorch keeps nowhere but in that call's variables."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        version = frame.f_locals.get("opset_version")
        if isinstance(version, int) and str(frame.f_globals.get("__name__")).startswith("torch.onnx."):
            return version
        frame = frame.f_back
    return None


def _of_one_type(tensors: tuple[Tensor | None, ...]) -> bool:
    types = {t.dtype for t in tensors if t is not None}
    return len(types) == 1 and types <= set(RECORDED)


@functools.cache
def _has_torchvision() -> bool:
    return find_spec("torchvision") is not None


def torchvision_operators() -> Any:
    """Return torchvision's operators, which exist once it is imported."""
    import torchvision.ops  # noqa: F401

    return torch.ops.torchvision


def numbers_are_fixed() -> AbstractContextManager[object]:
    """Return a context in which `torch.jit.trace` takes shapes for numbers without a warning, as checks of them do."""
    return _without_tracer_warnings() if is_traced() else nullcontext()


@contextmanager
def _without_tracer_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield
