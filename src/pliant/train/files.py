# SPDX-License-Identifier: Apache-2.0
"""Writing into a run folder: whole files or none, one run at a time, and never through a link.

A run folder may come from a stranger. A link in it would lead what is written here to a file elsewhere, so links are
refused, and temporary files have random names and are created exclusively.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from pliant._check import PliantError, fail, fail_because

LOCK_FILE = ".lock"
_PARTIAL = ".partial"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file beside `path`, flush it to disk, and rename it to `path` in one step.

    Raises:
        PliantError: the file cannot be written; what stood at `path` is still there, and nothing else is left.
    """
    try:
        descriptor, name = tempfile.mkstemp(suffix=_PARTIAL, prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            os.close(descriptor)
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())  # as a plainly opened file; mkstemp's is its owner's alone
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two are what PyTorch and safetensors raise
        reason = " ".join(str(error).splitlines()[:1])
        raise PliantError(f"out: must be a folder that can be written to; {path}: {reason}; free some space") from error


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, atomically."""
    write_atomically(path, lambda target: target.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8"))


def open_to_append(path: Path) -> TextIO:
    """Open a text file to append to; a link is refused."""
    _refuse_link(path)
    no_follow = getattr(os, "O_NOFOLLOW", 0)  # for a link that is made between the two lines; Windows has none
    return open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | no_follow, 0o666))


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make the folder `run` where it is not there, and lock it: other processes, and links in it, are refused.

    What a killed process left half written is removed.
    """
    run.mkdir(parents=True, exist_ok=True)
    for entry in run.iterdir():
        _refuse_link(entry)
    try:
        with FileLock(run / LOCK_FILE, timeout=0):
            for left in run.glob(f".*{_PARTIAL}"):
                left.unlink()
            yield
    except Timeout:
        reason = "another process holds it"
        fail_because("out", f"must be a run folder that no other run writes to; {run}", reason, "wait for that to end")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        fail("out", "must be a folder without links", path, "put a copy of the file in the place of the link")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk; Windows keeps no such list open."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
