# SPDX-License-Identifier: Apache-2.0
"""What RoI pooling would launch, compiled for GPUs that are not here: no spills, wide loads, atomics in one kernel."""

from __future__ import annotations

import importlib.util

import pytest

from gpu.processes import run_program

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
KERNELS = {"pool_bins", "sum_products", "scatter_gradient"}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_kernels_keep_their_budgets(architecture: str) -> None:
    done = run_program("pooling_compiled", architecture, interpreted=False)
    assert done.status == 0, done.errors
    wanted = {(o, t, k) for o in ("plain", "ps") for t in ("bfloat16", "float32") for k in KERNELS}
    assert {(row["operator"], row["type"], row["kernel"]) for row in done.rows} == wanted
    for row in done.rows:
        assert row["spills"] == 0, row
        assert 16 <= row["registers"] <= 168, row
        assert row["shared"] <= 16 * 1024, row
        assert (row["atomics"] > 0) == (row["kernel"] == "scatter_gradient"), row
        if row["operator"] == "plain" and row["kernel"] != "scatter_gradient" and architecture.startswith("sm"):
            assert row["wide_loads"] >= 4, row
