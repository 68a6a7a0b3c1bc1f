# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter without what it does again at each call of a function: a quarter of its time."""

from __future__ import annotations

import inspect
from typing import Any

from triton import language as tl
from triton.runtime import interpreter


class _Kept:
    """Stands for changes that are not taken back, since the process does nothing but interpret."""

    def restore(self) -> None:
        pass


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
