# SPDX-License-Identifier: Apache-2.0
"""What the GPU path would launch, compiled for Hopper, sm_90 (see test_compiled.py)."""

from __future__ import annotations

import importlib.util

import pytest

from helpers.gpu.budgets import kernel_faults


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_keep_their_budgets() -> None:
    assert kernel_faults("sm_90") == []
