# SPDX-License-Identifier: Apache-2.0
"""What the GPU path would launch, compiled for GPUs that are not here: no spills, tensor cores, loads of 16 bytes.

Each kernel is compiled once for each architecture and in each type; `make compile-matrix` compiles all of them in all.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import pytest

from helpers.gpu.budgets import faults
from helpers.gpu.compile_matrix import ARCHITECTURES, BRANCHES, EVERY_KERNEL, NUMBERS, TESTED
from helpers.gpu.processes import run_program

no_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
GOOD = {"architecture": "sm_90", "kernel": "fused_convolution", "work": "large", "type": "bfloat16", "shared": 99_000,
        "registers": 240, "spills": 0, "tensor": 2, "wide_loads": 36, "atomics": 0, "approximate": 0}  # fmt: skip


@functools.cache
def compiled() -> list[dict[str, Any]]:
    """Return what the machine code of each kernel holds (see compiled.py)."""
    done = run_program("compiled", *TESTED, interpreted=False)
    assert done.status == 0, done.errors
    return done.rows


@no_triton
@pytest.mark.parametrize("architecture", TESTED)
def test_kernels_keep_their_budgets(architecture: str) -> None:
    rows = [row for row in compiled() if row["architecture"] == architecture]
    wanted = {(t, w.name, k) for t, works in TESTED[architecture].items() for w, ks in works.items() for k in ks}
    assert {(row["type"], row["work"], row["kernel"]) for row in rows} == wanted
    assert [fault for row in rows for fault in faults(row)] == []


def test_each_kernel_meets_each_architecture_and_each_type() -> None:
    every = {(work, kernel) for work, kernels in EVERY_KERNEL.items() for kernel in kernels}
    met = {
        (architecture, type_name, work, kernel)
        for architecture, types in TESTED.items()
        for type_name, works in types.items()
        for work, kernels in works.items()
        for kernel in kernels
    }
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
