# SPDX-License-Identifier: Apache-2.0
"""What the readers of all layouts say where there is nothing that they can read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from pliant._check import fail, suggest

_SHOWN = 8  # files and folders that are named of those in a folder


def check_folder(root: Path) -> None:
    """Raise a `PliantError` unless `root` is a folder."""
    if not root.is_dir():
        fail("data", "must be a folder", root, "no such folder is there")


def refuse_split(root: Path, split: str, splits: Iterable[str]) -> NoReturn:
    """Raise a `PliantError` that names the splits there are."""
    names = ", ".join(repr(name) for name in splits)
    rule, fix = f"must be one of those in {root}: {names}", f"give one of them.{suggest(split, splits)}"
    fail("split", rule, repr(split), fix)


def refuse_layout(root: Path, rule: str, looked: str) -> NoReturn:
    """Raise a `PliantError` that says what is in `root`, and what was looked for."""
    there = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    shown = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
    fail("data", rule, f"{root} with {shown or 'nothing in it'}", f"looked for {looked}")
