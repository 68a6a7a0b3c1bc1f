# SPDX-License-Identifier: Apache-2.0
"""What the GPU path would launch, compiled for GPUs that are not here: no spills, tensor cores, loads of 16 bytes."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import pytest

from gpu.compile_matrix import BRANCHES, MATRIX, Types
from gpu.processes import run_program

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

KILOBYTES = {
    "sm_80": 163,
    "sm_89": 99,
    "sm_90": 227,
    "sm_100": 227,
    "gfx942": 64,
}  # of shared memory a program may have


@functools.cache
def compiled(architecture: str, *branches: str) -> list[dict[str, Any]]:
    """Return what the machine code of each kernel holds (see compiled.py)."""
    done = run_program("compiled", architecture, *branches, interpreted=False)
    assert done.status == 0, done.errors
    return done.rows


def kernels_of(types: Types) -> set[tuple[str, str, str]]:
    return {(t, layer.name, k) for t, layers in types.items() for layer, kernels in layers.items() for k in kernels}


def where(row: dict[str, Any]) -> str:
    return f"{row['kernel']} of the {row['layer']} layer in {row['type']}: {row}"


@pytest.mark.parametrize("architecture", MATRIX)
def test_kernels_keep_their_budgets(architecture: str) -> None:
    rows = compiled(architecture)
    assert {(row["type"], row["layer"], row["kernel"]) for row in rows} == kernels_of(MATRIX[architecture])
    for row in rows:
        assert row["spills"] == 0, where(row)
        assert 16 <= row["registers"] <= (512 if architecture.startswith("gfx") else 255), where(row)
        assert row["shared"] <= KILOBYTES[architecture] * 1024, where(row)
        if row["kernel"] != "sample_cells":  # whose offsets may be stored in any order
            assert row["wide_loads"] >= 4, where(row)
        assert (row["atomics"] > 0) == is_scattered(row, architecture), where(row)


def is_scattered(row: dict[str, Any], architecture: str) -> bool:
    """Say whether a kernel may hold atomics: small layers alone, and Blackwell's tensor-core instructions."""
    blackwell = architecture == "sm_100" and uses_tensor_cores(row, architecture) and row["type"] != "float64"
    return (row["kernel"], row["layer"]) == ("sample_backward", "small") or blackwell


def uses_tensor_cores(row: dict[str, Any], architecture: str) -> bool:
    """Say whether a kernel must multiply on tensor cores: all fused ones, but for float32 at full precision."""
    full = row["type"] == "float32" and not architecture.startswith("gfx")  # CDNA's matrix cores take float32
    return row["kernel"] == "fused_convolution" and not full


@pytest.mark.parametrize("architecture", MATRIX)
def test_products_are_on_tensor_cores(architecture: str) -> None:
    for row in compiled(architecture):
        assert (row["tensor"] > 0) == uses_tensor_cores(row, architecture), where(row)


def test_every_branch_compiles() -> None:
    """What the interpreter takes and the compiler does not: 64-bit indices in a loop, arguments that are None."""
    rows = compiled("sm_90", "branches")
    assert {(row["type"], row["layer"], row["kernel"]) for row in rows} == kernels_of(BRANCHES)
    assert [where(row) for row in rows if row["spills"] or row["atomics"]] == []
