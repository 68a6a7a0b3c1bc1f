# SPDX-License-Identifier: Apache-2.0
"""Which processor instructions the compiled CPU library uses, and a way to choose others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pliant._check import fail, fail_because, suggest
from pliant.ops import _backends
from pliant.ops._deform_conv2d import deform_conv2d
from pliant.ops._deform_roi_pool import deform_roi_pool
from pliant.ops._dispatch import Impl

DIFFERS = "differs from the reference"
NAMES = ("avx512", "avx2", "baseline")  # from the fastest to the one that every processor has


def instruction_sets() -> tuple[str, ...]:
    """Return which of "avx512", "avx2" and "baseline" the compiled library can use on this machine, the fastest first.

    There are none where this installation has no compiled library.

    Example:
        >>> import pliant
        >>> "avx3" in pliant.ops.instruction_sets()
        False
    """
    library = _backends.native_library()
    if library is None:
        return ()
    in_use = library.instruction_set()
    found = tuple(name for name in NAMES if library.use_instruction_set(name))
    library.use_instruction_set(in_use)
    return found


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Run the compiled CPU library with one instruction set inside a `with` block.

    It is for tests and for reporting faults: the library chooses the fastest set by itself. The choice holds for the
    whole process, all threads included, until the block ends. Sets round differently; none changes what is computed.

    Args:
        name: one of `instruction_sets()`.

    Raises:
        PliantError: this machine or this installation does not have that set.

    Example:
        >>> import torch
        >>> import pliant
        >>> x, offset, weight = torch.rand(1, 2, 5, 6), torch.zeros(1, 18, 3, 4), torch.rand(3, 2, 3, 3)
        >>> expected = pliant.ops.deform_conv2d(x, offset, weight)
        >>> for name in pliant.ops.instruction_sets():
        ...     with pliant.ops.instruction_set(name):
        ...         torch.testing.assert_close(pliant.ops.deform_conv2d(x, offset, weight), expected)
    """
    library = _backends.native_library()
    if library is None:
        fix = "reinstall pliant with a C++17 compiler and PLIANT_NO_NATIVE unset"
        fail_because("name", "must be an instruction set of the compiled library", _backends.why_no_native(), fix)
    if name not in (known := instruction_sets()):
        names = ", ".join(map(repr, known))
        fail("name", "must be an instruction set of this machine", repr(name), f"use {names}.{suggest(name, known)}")
    before = library.instruction_set()
    library.use_instruction_set(name)
    try:
        yield
    finally:
        library.use_instruction_set(before)


def compare() -> list[tuple[str, str]]:
    """Return for each instruction set whether it is here, and whether it computes what the reference does.

    For `pliant env --instruction-sets`: it runs one small convolution and one small pooling with each.
    """
    if (library := _backends.native_library()) is None:
        return [(name, _backends.why_no_native()) for name in NAMES]
    known, in_use = instruction_sets(), library.instruction_set()
    rows = []
    for name in NAMES:
        if name not in known:
            rows.append((name, "not on this processor, or not in this library"))
            continue
        with instruction_set(name):
            agrees = all(torch.allclose(f("native"), f("reference"), rtol=1e-4, atol=1e-4) for f in _small_problems())
        verdict = "agrees with the reference" if agrees else f"{DIFFERS}: please report it"
        rows.append((name, ("in use, " if name == in_use else "") + verdict))
    return rows


def _small_problems() -> list[Callable[[Impl], Tensor]]:
    """Return a convolution and a pooling that fill vectors of every width, and leave some channels over."""
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((1, 37, 9, 11), (21, 37, 3, 3)))
    offset, boxes = torch.randn(1, 18, 9, 11, generator=generator), torch.tensor([[0, 1.0, 0.5, 8.5, 7.0]])
    return [
        lambda impl: deform_conv2d(x, offset, weight, padding=1, impl=impl),
        lambda impl: deform_roi_pool(x, boxes, (3, 2), impl=impl),
    ]
