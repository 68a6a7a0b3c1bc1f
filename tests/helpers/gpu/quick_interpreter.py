# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter without what it does again at each call of a function, and without what nobody looks at."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from triton import language as tl
from triton.runtime import interpreter


class _Kept:
    """Stands for changes that are not taken back, since the process does nothing but interpret."""

    def restore(self) -> None:
        pass


def make_quick() -> None:
    """Let the interpreter do its work once; to be called before the first kernel."""
    patch_once()
    leave_out_overflow()


def leave_out_overflow() -> None:
    """Let sums and products of integers be computed once, not in 64 bits too, with which only `debug` compares them."""
    options = interpreter.interpreter_builder.options
    assert not options.debug
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)


def patch_once() -> None:
    """Let Triton's language be replaced by the interpreter's once, not anew at each call of a function."""
    original, done = interpreter._patch_lang, set()

    def patch(function: Any) -> _Kept:
        languages = frozenset(
            id(v) for v in function.__globals__.values() if inspect.ismodule(v) and v in (tl, tl.core)
        )
        if languages not in done:
            done.add(languages)
            original(function)
        return _Kept()

    interpreter._patch_lang = patch
