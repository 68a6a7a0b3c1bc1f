# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU library and the only way to it."""

from __future__ import annotations

from pliant.ops._native.library import NativeLibrary, load, why_not

__all__ = [
    "NativeLibrary",
    "load",
    "why_not",
]
