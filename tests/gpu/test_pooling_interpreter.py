# SPDX-License-Identifier: Apache-2.0
"""The pooling kernels, run by Triton's interpreter in processes of their own (see pooling_interpreted.py)."""

from __future__ import annotations

import functools
import importlib.util

import pytest

from helpers.gpu.pooling_cases import MUTANTS, RUNS, SUBSETS
from helpers.gpu.processes import problems_of, run_program

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@functools.cache
def problems(job: str) -> dict[str, str]:
    """Return what each check of a job found."""
    return problems_of(run_program("pooling_interpreted", job, interpreted=True))


def assert_no_problem(job: str, name: str) -> None:
    found = problems(job)
    assert name in found, f"the process ended before: {found['end']}"
    assert found[name] == ""


@pytest.mark.parametrize("name", [run.name for run in RUNS])
def test_output_and_gradients_match_the_loops(name: str) -> None:
    assert_no_problem("values", name)


@pytest.mark.parametrize("name", [run.name for run in SUBSETS])
def test_every_subset_of_the_gradients(name: str) -> None:
    assert_no_problem("values", f"subsets_{name}")


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_a_wrong_kernel_is_caught(name: str) -> None:
    assert_no_problem("mutants", name)


def test_mutants_run_what_the_real_kernels_pass() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 19
    assert [mutant.name for mutant in MUTANTS if mutant.run not in RUNS] == []
