# SPDX-License-Identifier: Apache-2.0
"""Programs of this folder in processes of their own, which print their results as lines of JSON."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[3]


class Done(NamedTuple):
    """What a program printed, and how it ended."""

    rows: list[dict[str, Any]]
    status: int
    errors: str


def run_program(module: str, *arguments: str, interpreted: bool, seconds: int = 900) -> Done:
    """Run `python -m helpers.gpu.MODULE`, with Triton's interpreter or without."""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
    environment = os.environ | paths | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    if not interpreted:
        del environment["TRITON_INTERPRET"]
    command = [sys.executable, "-m", f"helpers.gpu.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Done(rows, done.returncode, done.stderr[-3000:])


@functools.cache
def problems_of(module: str, job: str) -> dict[str, str]:
    """Return what each check of a program's job found, "" for nothing, and how the program ended.

    Checks that were not reached are missing. The program runs once in a process of pytest.
    """
    done = run_program(module, job, interpreted=True)
    found = {row["name"]: row["problem"] for row in done.rows}
    return found | {"end": f"exit status {done.status}: {done.errors}"}


def assert_no_problem(module: str, job: str, name: str) -> None:
    """Assert that a check of a program's job was reached and found nothing."""
    found = problems_of(module, job)
    assert name in found, f"the process ended before: {found['end']}"
    assert found[name] == ""
