# SPDX-License-Identifier: Apache-2.0
"""Wrong Triton kernels, run by Triton's interpreter, of which the checks must notice each (see interpreted.py)."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.gpu.interpreter_cases import MUTANTS, RUNS
from helpers.gpu.processes import assert_no_problem

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_a_wrong_kernel_is_caught(name: str) -> None:
    assert_no_problem("interpreted", "mutants", name)


def test_mutants_run_what_the_real_kernels_pass() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 24
    assert [mutant.name for mutant in MUTANTS if mutant.run not in RUNS] == []
