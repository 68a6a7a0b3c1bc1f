# SPDX-License-Identifier: Apache-2.0
"""What every operator's Triton kernels need: whether they can run here, why not, on which GPU, and their launch.

Importing this module imports no Triton; only what launches a kernel does.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

MINIMUM_CAPABILITY = (8, 0)  # older tensor cores have no path through Triton
MATRIX_CORES = ("gfx90a", "gfx94", "gfx95")  # AMD's data-centre chips; on the others the kernels spill registers
LARGEST_INT32 = 2**31 - 1


class Architecture(NamedTuple):
    """The kind of GPU that a kernel is tuned for."""

    name: str  # "sm_90", "gfx942"
    processors: int  # streaming multiprocessors or compute units


@functools.cache
def import_problem() -> str | None:
    """Return why Triton cannot be imported here, or None where it can."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton cannot be imported ({error}); pip install triton"
    return None


def is_interpreted() -> bool:
    """Say whether Triton's interpreter stands in for a GPU in this process, on CPU tensors, as the tests have it."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def architecture(device: torch.device) -> Architecture:
    """Return what kind of GPU `device` is."""
    if device.type != "cuda":
        return Architecture("interpreter", 1)
    return _architecture(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _architecture(index: int) -> Architecture:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return Architecture(properties.gcnArchName.partition(":")[0], properties.multi_processor_count)
    return Architecture(f"sm_{properties.major}{properties.minor}", properties.multi_processor_count)


def why_not(device: torch.device) -> str | None:
    """Return why Triton's kernels cannot run on tensors of `device`, or None where they can."""
    if device.type != "cuda":
        return f"its kernels run on CUDA and ROCm tensors, not on {device.type}"
    problem = import_problem()
    if problem is not None:
        return problem
    if not torch.cuda.is_available():  # tensors without data, which are traced for another machine
        return None
    return _unfit(torch.cuda.current_device() if device.index is None else device.index)


# torch.compile asks once while it traces, and takes the answer for a constant.
setattr(why_not, "_dynamo_marked_constant", True)  # noqa: B010


@functools.cache
def _unfit(index: int) -> str | None:
    """Return what is wrong with a GPU, or None."""
    name = _architecture(index).name
    if torch.version.hip:
        fit = name.startswith(MATRIX_CORES)
        wanted = "CDNA 2 or newer (gfx90a, gfx942, gfx950)"
    else:
        fit = torch.cuda.get_device_capability(index) >= MINIMUM_CAPABILITY
        wanted = "sm_80 (Ampere) or newer"
    return None if fit else f"{torch.cuda.get_device_name(index)} is {name}; the kernels need {wanted}"


def describe() -> tuple[bool, str]:
    """Return whether kernels can run on this machine's GPUs, and on which or why not, for `pliant env`."""
    problem = import_problem()
    if problem is not None:
        return False, problem
    if not torch.cuda.is_available():
        return False, "PyTorch sees no CUDA or ROCm device here"
    unfit = [reason for k in range(torch.cuda.device_count()) if (reason := _unfit(k)) is not None]
    if len(unfit) == torch.cuda.device_count():
        return False, unfit[0]
    names = sorted({_architecture(k).name for k in range(torch.cuda.device_count()) if _unfit(k) is None})
    return True, f"Triton {importlib.metadata.version('triton')} on {', '.join(names)}"


def needs_int64(tensors: Sequence[Tensor | None], *counts: int) -> bool:
    """Say whether an element of one of the tensors, or one of the counts, is beyond 32-bit indices."""
    present = [t for t in tensors if t is not None]
    spans = [sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) for t in present]
    sizes = [t.numel() for t in present]
    return max(*spans, *sizes, *counts) > LARGEST_INT32 - 2**24  # a tile may reach over the end before it is masked


def dot_precision(dtype: torch.dtype) -> str:
    """Return how float32 is multiplied: as PyTorch's own switch for matrix products says, in full by default."""
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if tf32 and not is_interpreted() else "ieee"


def compute_type(dtype: torch.dtype) -> Any:
    """Return Triton's type for coordinates, interpolation and sums: float32, or float64 where the image is."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def dot_type(dtype: torch.dtype) -> Any:
    """Return the type that operands of a matrix product have."""
    import triton.language as tl

    if is_interpreted() and dtype == torch.bfloat16:
        return tl.float32  # the interpreter would multiply the bit patterns
    known = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}
    return known.get(dtype, tl.float64)


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **options: Any) -> None:
    """Run `kernel` on the current stream of `device`, which need not be the current one."""
    if 0 in grid:
        return
    if not is_interpreted():
        options["enable_fp_fusion"] = True  # multiply and add in one instruction, which Triton 3.10 no longer assumes
    with _current(device):
        kernel[grid](*arguments, **options)


def _current(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda" or device.index in (None, torch.cuda.current_device()):
        return nullcontext()
    return torch.cuda.device(device)
