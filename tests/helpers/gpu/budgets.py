# SPDX-License-Identifier: Apache-2.0
"""What the machine code of each kernel may take, and must hold."""

from __future__ import annotations

from typing import Any

from helpers.gpu.compile_matrix import BRANCHES, TESTED
from helpers.gpu.processes import run_program

SHARED_KILOBYTES = {"sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "gfx942": 64}  # a program may have
POOLING = ("pool_bins", "sum_products", "scatter_gradient")
POOLING_REGISTERS, POOLING_SHARED = 168, 16 << 10
UNUSUAL = tuple(work.name for work in BRANCHES)  # whose channels are too few, or too odd, for wide loads


def faults(row: dict[str, Any]) -> list[str]:
    """Return what is wrong with a kernel, as compiled.py reports it; nothing where all is as it should be."""
    architecture, pooling = row["architecture"], row["kernel"] in POOLING
    registers = 512 if architecture.startswith("gfx") else POOLING_REGISTERS if pooling else 255
    shared = POOLING_SHARED if pooling else SHARED_KILOBYTES[architecture] << 10
    rules = {
        "spills registers": row["spills"] == 0,
        f"takes other than 16 to {registers} registers": 16 <= row["registers"] <= registers,
        f"takes more than {shared} bytes of shared memory": row["shared"] <= shared,
        "loads no 16 bytes at a time": row["wide_loads"] >= 4 or not loads_wide(row),
        "has atomics": row["atomics"] == 0 or is_scattered(row) or is_product_of_blackwell(row),
        "has no atomics": row["atomics"] > 0 or not is_scattered(row),
        "is not on tensor cores": row["tensor"] > 0 or not multiplies(row),
        "is on tensor cores": row["tensor"] == 0 or multiplies(row),
        "divides approximately": row.get("approximate", 0) == 0,
    }
    return [f"{row['kernel']} of {row['work']} {rule}: {row}" for rule, kept in rules.items() if not kept]


def kernel_faults(*architectures: str) -> list[str]:
    """Compile what is tested for these architectures, in a process of its own, and return what is wrong with it."""
    done = run_program("compiled", *architectures, interpreted=False)
    assert done.status == 0, done.errors
    wanted = {
        (architecture, type_name, work.name, kernel)
        for architecture in architectures
        for type_name, works in TESTED[architecture].items()
        for work, kernels in works.items()
        for kernel in kernels
    }
    assert {(row["architecture"], row["type"], row["work"], row["kernel"]) for row in done.rows} == wanted
    return [fault for row in done.rows for fault in faults(row)]


def loads_wide(row: dict[str, Any]) -> bool:
    """Say whether a kernel must load sixteen bytes at a time, which takes channels that lie together."""
    if row["work"] in UNUSUAL or row["kernel"] in ("sample_cells", "scatter_gradient"):
        return False
    if row["architecture"].startswith("gfx"):  # whose 512 threads have fewer bytes each of a narrow tile, or of a bin
        return row["kernel"] not in (*POOLING, "fused_convolution") or row["work"] == "large"
    return row["kernel"] not in POOLING or row["work"] == "roi_pool"


def is_scattered(row: dict[str, Any]) -> bool:
    """Say whether a kernel adds up by atomics: gradients of small layers, and of pooled images."""
    return row["kernel"] == "scatter_gradient" or (row["kernel"], row["work"]) == ("sample_backward", "small")


def is_product_of_blackwell(row: dict[str, Any]) -> bool:
    """Say whether a kernel multiplies by Blackwell's instructions, which take their memory by atomics."""
    return row["architecture"] == "sm_100" and multiplies(row) and row["type"] != "float64"


def multiplies(row: dict[str, Any]) -> bool:
    """Say whether a kernel must multiply on tensor cores: all fused ones but float32's at full precision on NVIDIA."""
    full = row["type"] == "float32" and row["architecture"].startswith("sm")  # CDNA's matrix cores take float32
    return row["kernel"] == "fused_convolution" and not full
