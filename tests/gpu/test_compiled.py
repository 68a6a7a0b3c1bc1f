# SPDX-License-Identifier: Apache-2.0
"""What the GPU path would launch, compiled for GPUs that are not here: no spills, tensor cores, loads of 16 bytes.

Each kernel is compiled once for each architecture and in each type; `make compile-matrix` compiles all of them in all.
sm_90, for which all branches are compiled, and AMD's have files of their own, so that processes share the work.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from helpers.gpu.budgets import faults, kernel_faults
from helpers.gpu.compile_matrix import ARCHITECTURES, BRANCHES, EVERY_KERNEL, NUMBERS, TESTED

no_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
HERE = ("sm_80", "sm_89", "sm_100")
GOOD = {"architecture": "sm_90", "kernel": "fused_convolution", "work": "large", "type": "bfloat16", "shared": 99_000,
        "registers": 240, "spills": 0, "tensor": 2, "wide_loads": 36, "atomics": 0, "approximate": 0}  # fmt: skip


@no_triton
@pytest.mark.slow
def test_kernels_keep_their_budgets() -> None:
    assert kernel_faults(*HERE) == []


def test_each_kernel_meets_each_architecture_and_each_type() -> None:
    every = {(work, kernel) for work, kernels in EVERY_KERNEL.items() for kernel in kernels}
    met = {
        (architecture, type_name, work, kernel)
        for architecture, types in TESTED.items()
        for type_name, works in types.items()
        for work, kernels in works.items()
        for kernel in kernels
    }
    assert set(TESTED) == {*HERE, "sm_90", "gfx942"}
    assert {(a, w, k) for a, _, w, k in met} >= {(a, w, k) for a in ARCHITECTURES for w, k in every}
    assert {(t, w, k) for _, t, w, k in met} >= {(t, w, k) for t in NUMBERS for w, k in every}
    assert {("sm_90", "bfloat16", w, k) for w, kernels in BRANCHES.items() for k in kernels} <= met


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"spills": 4}, "spills registers"),
        ({"registers": 256}, "takes other than 16 to 255 registers"),
        ({"architecture": "sm_89", "shared": 102_000}, "takes more than 101376 bytes of shared memory"),
        ({"wide_loads": 3}, "loads no 16 bytes at a time"),
        ({"atomics": 1}, "has atomics"),
        ({"kernel": "sample_backward", "work": "small", "tensor": 0}, "has no atomics"),
        ({"tensor": 0}, "is not on tensor cores"),
        ({"type": "float32"}, "is on tensor cores"),
        ({"approximate": 1}, "divides approximately"),
        ({"kernel": "pool_bins", "work": "roi_pool", "tensor": 0}, "takes other than 16 to 168 registers"),
    ],
)  # fmt: skip
def test_a_budget_that_is_not_kept_is_named(change: dict[str, Any], fault: str) -> None:
    assert faults(GOOD) == []
    assert f"of {(GOOD | change)['work']} {fault}: {GOOD | change}" in faults(GOOD | change)[0]
