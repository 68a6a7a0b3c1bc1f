# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels behind PyTorch's dispatcher, run by Triton's interpreter on the CPU (see interpreted.py)."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.gpu.processes import assert_no_problem

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize("name", ["opcheck", "compile", "autocast", "determinism", "only_needed", "empty", "tune"])
def test_behind_the_dispatcher(name: str) -> None:
    assert_no_problem("interpreted", "dispatcher", name)
