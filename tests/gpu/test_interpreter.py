# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels, run by Triton's interpreter on the CPU in a process of its own (see interpreted.py)."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.gpu.interpreter_cases import RUNS
from helpers.gpu.processes import assert_no_problem

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize("name", [run.name for run in RUNS])
def test_output_and_gradients_match_the_loops(name: str) -> None:
    assert_no_problem("interpreted", "values", name)


def test_no_two_runs_have_one_name() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
