# SPDX-License-Identifier: Apache-2.0
"""The pooling kernels, run by Triton's interpreter in a process of its own (see pooling_interpreted.py)."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.gpu.pooling_cases import RUNS, SUBSETS
from helpers.gpu.processes import assert_no_problem

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize("name", [run.name for run in RUNS])
def test_output_and_gradients_match_the_loops(name: str) -> None:
    assert_no_problem("pooling_interpreted", "values", name)


@pytest.mark.parametrize("name", [run.name for run in SUBSETS])
def test_every_subset_of_the_gradients(name: str) -> None:
    assert_no_problem("pooling_interpreted", "values", f"subsets_{name}")
