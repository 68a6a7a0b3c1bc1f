# SPDX-License-Identifier: Apache-2.0
"""The pooling kernels, run by Triton's interpreter in processes of their own (see pooling_interpreted.py)."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpu.pooling_cases import MUTANTS, RUNS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def problems(job: str) -> dict[str, str]:
    """Return what each check of a job found, "" for nothing; what comes after the end of the process is not there."""
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
    environment = os.environ | paths | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gpu.pooling_interpreted", job]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["name"]: row["problem"] for row in rows} | {"end": f"{done.returncode}: {done.stderr[-2000:]}"}


def assert_no_problem(job: str, name: str) -> None:
    found = problems(job)
    assert name in found, f"the process ended before: {found['end']}"
    assert found[name] == ""


@pytest.mark.xdist_group("pooling_values")
@pytest.mark.parametrize("name", [run.name for run in RUNS])
def test_output_and_gradients_match_the_loops(name: str) -> None:
    assert_no_problem("values", name)


@pytest.mark.xdist_group("pooling_mutants")
@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_a_wrong_kernel_is_caught(name: str) -> None:
    assert_no_problem("mutants", name)


def test_mutants_run_what_the_real_kernels_pass() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 19
    assert [mutant.name for mutant in MUTANTS if mutant.run not in RUNS] == []
