# SPDX-License-Identifier: Apache-2.0
"""Writing files: whole ones or none, and one line that names the file where the disk is full.

Temporary files stand beside the file that they become. Their names are random and they are created exclusively, since a
folder may come from a stranger, and a link in it would lead elsewhere what is written.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pliant._check import fail_because

PARTIAL = ".partial-"  # what the name of a temporary file begins with

# What helps against a system's refusal to write more.
FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit on the size of files, ulimit -f",
}


def write_whole(
    path: Path | str,
    write: Callable[[Path], object],
    *,
    durable: bool = False,
    raises: tuple[type[Exception], ...] = (),
) -> None:
    """Let `write` fill a new file beside `path` with its suffix, and rename it to `path` in one step.

    Args:
        path: the file; what stands there is replaced, and a link is not followed.
        write: takes the path of the new file.
        durable: flush the file and its folder to the disk.
        raises: what `write` raises beside `OSError` where it cannot write.

    Raises:
        PliantError: the file cannot be written; what stood at `path` is still there, and nothing else is left.
    """
    path = Path(path)
    with naming(path, raises):
        descriptor, name = tempfile.mkstemp(suffix=path.suffix, prefix=PARTIAL, dir=path.parent)
        temporary = Path(name)
        try:
            os.close(descriptor)
            write(temporary)
            if durable:
                _flush_file(temporary)
            temporary.chmod(0o666 & ~_umask())  # as a plainly opened file; mkstemp's is its owner's alone
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            _flush_folder(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; see `write_whole`."""
    write_whole(path, lambda target: target.write_text(text, encoding="utf-8"))


@contextmanager
def naming(path: Path | str, raises: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn an `OSError`, and what else `raises` names, into a `PliantError` that says that `path` cannot be written."""
    caught: tuple[type[Exception], ...] = (OSError, *raises)
    try:
        yield
    except caught as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error  # PyTorch hides it so
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).splitlines()[:1])
        fix = FIXES.get(getattr(cause, "errno", None) or 0, "free some space, or write into another folder")
        fail_because(str(path), "must be a file that can be written", reason, fix)


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk; Windows keeps no such list open."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
