# SPDX-License-Identifier: Apache-2.0
"""Files of any layout: json, lists of names, names that stay in their folder, and the images of a folder."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

from pliant._check import PliantError, fail
from pliant.data.images import EXTENSIONS


def load_json(file: Path) -> Any:
    """Read a json file, or raise a `PliantError` that says where it is broken."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PliantError(f"{file}: must be a json file; got text that is none; {error}") from error


def brief(value: object) -> str:
    """Return `value` as a message shows it: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse_entry(place: str, rule: str, got: object) -> NoReturn:
    """Raise a `PliantError` about an entry of a json file."""
    fail(place, rule, brief(got), "correct the json file")


def is_id(value: object) -> bool:
    """Say whether `value` is an integer, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_inside(name: object, place: str) -> str:
    """Return `name` if it is a relative path that stays in its folder, on any system; refuse it otherwise."""
    if not isinstance(name, str) or not name:
        refuse_entry(place, "must have a 'file_name'", name)
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if windows.drive or windows.root or posix.is_absolute() or ".." in windows.parts or "\0" in name:
        refuse_entry(place, "must name a file inside the folder of images", repr(name))
    return name


def stated_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) if both are positive integers; many tools write 0 where they did not look."""
    if is_id(width) and is_id(height):
        assert isinstance(width, int) and isinstance(height, int)
        return (width, height) if width > 0 and height > 0 else None
    return None


def lines_of(path: Path) -> list[str]:
    """Return the lines of a list of images, without blanks."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def check_stem(stem: str, split: str) -> None:
    """Refuse a listed name that could lead out of its folder."""
    if "/" in stem or "\\" in stem or "\0" in stem:
        fail(f"split {split!r}", "must list names without a folder", repr(stem), "correct it")


def files_by_stem(folder: Path) -> dict[str, list[str]]:
    """Return the images in `folder`: their names without suffix, each with the file names that have it."""
    files: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else ():
        if path.suffix.lower() in EXTENSIONS:
            files.setdefault(path.stem, []).append(path.name)
    return files
