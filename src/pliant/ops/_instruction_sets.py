# SPDX-License-Identifier: Apache-2.0
"""Which processor instructions the compiled CPU library uses, and a way to choose others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pliant._check import fail, fail_because, suggest
from pliant.ops import _backends

NAMES = ("avx512", "avx2", "baseline")  # from the fastest to the one that every processor has


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the compiled library can use on this machine, the fastest first.

    Returns:
        Names out of "avx512", "avx2" and "baseline"; empty where this installation has no compiled library.

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
