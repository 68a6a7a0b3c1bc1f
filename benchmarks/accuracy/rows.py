# SPDX-License-Identifier: Apache-2.0
"""Finished runs as lines of JSON, and the driver that adds those that are missing.

A row is written once its run is finished, in one write to a file opened for appending, so that a study can be stopped
at any moment and goes on where it was. A run is known by its `key`, the settings that make it this run and no other.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.processor import processor

RESULTS = Path(__file__).resolve().parent.parent / "results" / "accuracy"

Key = dict[str, Any]
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return the finished runs in `path`, none if it is not there."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_row(path: Path, row: Row) -> None:
    """Add a finished run, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(file, line) != len(line):
            raise OSError(f"{path}: the disk took a part of a row")
        os.fsync(file)
    finally:
        os.close(file)


def missing(plan: Iterable[Key], rows: Sequence[Row]) -> list[Key]:
    """Return the keys of the plan that no row has, in the order of the plan."""
    done = [row["key"] for row in rows]
    return [key for key in plan if key not in done]


def machine() -> dict[str, Any]:
    """Return what a run's seconds depend on."""
    return {
        "cpu": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def git_commit() -> str:
    """Return the commit of the code, with a plus where files were changed."""
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=10"]
    return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()


def run_missing(
    plan: Sequence[Key], run: Callable[[Key], Row], path: Path, *, jobs: int, seconds: float, commit: str
) -> int:
    """Run what is missing, `jobs` at a time with one thread each, start nothing after `seconds`; return what is left.

    Args:
        plan: the keys of all runs, the most telling first.
        run: makes one run in a process of its own and returns what it measured; must be a function of a module.
        path: the file of rows.
        jobs: processes.
        seconds: after which no further run is started; those begun are finished.
        commit: of the code that runs, kept in the rows.
    """
    waiting = missing(plan, read_rows(path))
    left = len(waiting)
    until = time.monotonic() + seconds
    running: dict[Future[Row], tuple[Key, float]] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < until:
                key = waiting.pop(0)
                running[pool.submit(run, key)] = (key, time.monotonic())
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                key, started = running.pop(future)
                now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
                wall = round(time.monotonic() - started, 1)
                row = {"key": key, **future.result(), "wall_seconds": wall, "ended": now, "commit": commit}
                append_row(path, {**row, "machine": {**machine(), "threads": 1, "runs_at_a_time": jobs}})
                left -= 1
                print(f"{now} {key}: {left} left", flush=True)
    return left
