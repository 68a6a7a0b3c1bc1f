# SPDX-License-Identifier: Apache-2.0
"""Programs of this folder in processes of their own, which print their results as lines of JSON."""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

from helpers.fresh import run_fresh

# Triton asks while it is imported whether it is to interpret.
PROGRAM = """
import os, runpy, sys, torch
torch.set_num_threads(1)
os.environ["TRITON_INTERPRET"] = sys.argv.pop(1)
runpy.run_module("helpers.gpu." + sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class Done(NamedTuple):
    """What a program printed, and how it ended."""

    rows: list[dict[str, Any]]
    status: int | None
    errors: str


def run_program(module: str, *arguments: str, interpreted: bool, seconds: int = 900) -> Done:
    """Run `python -m helpers.gpu.MODULE`, with Triton's interpreter or without."""
    done = run_fresh(PROGRAM, str(int(interpreted)), module, *arguments, seconds=seconds)
    rows = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    return Done(rows, done.status, done.errors[-3000:])


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
