# SPDX-License-Identifier: Apache-2.0
"""Writing into a run folder: whole files or none, one run at a time, and never through a link.

A run folder may come from a stranger. A link in it would lead what is written here to a file elsewhere, so links are
refused.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from pliant._check import fail, fail_because
from pliant._writing import PARTIAL, naming, write_whole

LOCK_FILE = ".lock"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file, flush it to disk, and rename it to `path` in one step; see `write_whole`."""
    # The errors are those of PyTorch and safetensors where they cannot write.
    write_whole(path, write, durable=True, raises=(RuntimeError, SafetensorError))


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, atomically."""
    write_atomically(path, lambda target: target.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8"))


class AppendedFile:
    """A text file that is appended to, each text at once; a link is refused.

    Nothing is held back, so that closing has nothing to write, which on a full disk would fail a second time.
    """

    def __init__(self, path: Path) -> None:
        _refuse_link(path)
        self.path = path
        no_follow = getattr(os, "O_NOFOLLOW", 0)  # for a link that is made between the two lines; Windows has none
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | no_follow, 0o666
        )
        self._file = io.FileIO(descriptor, "ab")

    def write(self, text: str) -> None:
        """Append a text.

        Raises:
            PliantError: it cannot be written.
        """
        left = text.encode("utf-8")
        with naming(self.path):
            while left:  # a disk that fills up takes a part of it first
                left = left[self._file.write(left) :]

    def sync(self) -> None:
        """Flush what was written to disk."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
            for left in run.glob(f"{PARTIAL}*"):
                left.unlink()
            yield
    except Timeout:
        reason = "another process holds it"
        fail_because("out", f"must be a run folder that no other run writes to; {run}", reason, "wait for that to end")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        fail("out", "must be a folder without links", path, "put a copy of the file in the place of the link")
