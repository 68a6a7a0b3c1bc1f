# SPDX-License-Identifier: Apache-2.0
"""Programs in processes of their own, forked from one that has imported PyTorch and has done nothing else.

A new interpreter takes seconds to import PyTorch; a fork takes none. What a program imports beside it is fresh.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_PROCESSES = multiprocessing.get_context("forkserver") if os.name == "posix" else multiprocessing.get_context("spawn")
_PROCESSES.set_forkserver_preload(["torch"])


class Done(NamedTuple):
    """The exit status of a program, negative for the signal that killed it, and what it printed and complained of."""

    status: int | None
    output: str
    errors: str


def run_fresh(program: str, *arguments: str, seconds: float = 300) -> Done:
    """Run `program`, with `arguments` in `sys.argv[1:]`, and wait for its end."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / "output", Path(folder) / "errors"]
        process = _PROCESSES.Process(target=_execute, args=(program, arguments, said))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return Done(process.exitcode, *(path.read_text(encoding="utf-8") for path in said))


def output_of(program: str, *arguments: str) -> str:
    """Return what `program` prints; a crash or an exception there is an `AssertionError` here."""
    done = run_fresh(program, *arguments)
    assert done.status == 0, f"exit status {done.status}\n{done.errors}"
    return done.output.strip()


def _execute(program: str, arguments: tuple[str, ...], said: list[Path]) -> None:
    for number, path in zip((1, 2), said, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
