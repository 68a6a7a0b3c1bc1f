# SPDX-License-Identifier: Apache-2.0
"""Files of any layout: lists of names, names that stay in their folder, hidden files, the images of a folder."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from pliant._check import PliantError
from pliant._files import is_id, read_bounded
from pliant.data.images import EXTENSIONS
from pliant.data.report import DataReport, Problem

# What unpacking an archive of macOS leaves beside the files; hidden files begin with a dot.
_DEBRIS = "__MACOSX"


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text in UTF-8, or in UTF-16 with its mark, without blanks around them and at the end.

    Bytes that are no UTF-8 come back as Python has them in file names, so that they still name the file they did.
    """
    content = read_bounded(file)
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16") if utf16 else content.decode("utf-8-sig", "surrogateescape")
    except UnicodeDecodeError as error:
        raise PliantError(f"{file}: must be a text in UTF-8; {error}; save it in UTF-8") from error
    return [line.strip() for line in text.rstrip().splitlines()] if text.strip() else []


def stays_inside(name: object) -> bool:
    """Say whether `name` is a relative path that stays in its folder, on any system."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    return not (windows.drive or windows.root or posix.is_absolute() or ".." in windows.parts)


def is_plain_name(name: str) -> bool:
    """Say whether a listed name is one in its folder: no path, and none that could lead out of it."""
    return stays_inside(name) and "/" not in name and "\\" not in name


def stated_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) if both are positive integers; many tools write 0 where they did not look."""
    if not is_id(width) or not is_id(height):
        return None
    assert isinstance(width, int) and isinstance(height, int)
    return (width, height) if width > 0 and height > 0 else None


def is_hidden(name: str) -> bool:
    """Say whether a file or folder is no part of the data: hidden, or left by the unpacking of an archive.

    Example:
        >>> [is_hidden(name) for name in (".ipynb_checkpoints", "._a.jpg", "__MACOSX", "a.jpg")]
        [True, True, True, False]
    """
    return name.startswith(".") or name == _DEBRIS


def visible(paths: Iterable[Path], report: DataReport | None = None) -> list[Path]:
    """Return `paths` in order, without hidden ones, which are counted in `report`."""
    found = []
    for path in sorted(paths, key=lambda path: path.name):
        if not is_hidden(path.name):
            found.append(path)
        elif report is not None:
            report.add(Problem.HIDDEN_FILE, path.name)
    return found


def files_by_stem(folder: Path, report: DataReport | None = None) -> dict[str, list[str]]:
    """Return the images in `folder`: their names without suffix, each with the file names that have it."""
    files: dict[str, list[str]] = {}
    images = (path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS) if folder.is_dir() else ()
    for path in visible(images, report):
        files.setdefault(path.stem, []).append(path.name)
    return files


def image_names(
    folder: Path, report: DataReport | None = None, suffixes: tuple[str, ...] = EXTENSIONS
) -> Iterator[str]:
    """Yield the images in `folder` and the folders in it, as paths below it, folder by folder in order of names.

    Links to other folders are not followed; hidden files and folders are left out, and counted in `report`.
    """
    for place, inner, names in os.walk(folder):
        below = Path(place).relative_to(folder).as_posix()
        images = (name for name in names if name.lower().endswith(suffixes))
        seen = visible((Path(name) for name in images), report)
        inner[:] = [path.name for path in visible((Path(name) for name in inner), report)]
        yield from (name.name if below == "." else f"{below}/{name.name}" for name in seen)
