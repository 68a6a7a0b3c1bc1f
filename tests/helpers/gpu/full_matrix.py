# SPDX-License-Identifier: Apache-2.0
"""Run as a program: compile every kernel for every architecture in every type, and write down what comes out.

    make compile-matrix

It takes some minutes of each core, and no GPU. The exit status is 1 where a kernel does not keep its budget.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import triton

from helpers.gpu.budgets import faults
from helpers.gpu.compile_matrix import ARCHITECTURES, FULL, Layer, Pooling
from helpers.gpu.processes import run_program

Row = dict[str, Any]
INTRODUCTION = """# What the compiler makes of the GPU kernels

`make compile-matrix` wrote this with {versions}. No GPU is needed for it, and none was asked: nothing here is a time.
Each cell holds registers / spilled registers / shared memory in KiB / tensor-core instructions. On NVIDIA those are
HGMMA, HMMA, DMMA and UTC\\*MMA, and spills are counted as stores to local memory; on AMD they are MFMA, and spilled
vector registers. `tests/helpers/gpu/budgets.py` says what must hold, of loads and atomics too; {verdict}.
An empty cell was not compiled: of the narrower tiles and the branches, not every type is.

"""


def compile_architecture(name: str) -> list[Row]:
    """Return what the machine code of each kernel holds."""
    done = run_program("compiled", "--full", name, interpreted=False, seconds=7200)
    if done.status != 0:
        raise SystemExit(f"{name}: {done.errors}")
    return done.rows


def versions() -> str:
    """Return what the machine code depends on."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    text = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True).stdout
    ptxas = re.search(r"release [\d.]+, (V[\d.]+)", text)
    assert ptxas is not None, text
    return f"Triton {triton.__version__}, its ptxas {ptxas[1]}, and PyTorch {torch.__version__}"


def cell(row: Row) -> str:
    """Return registers / spills / KiB / tensor-core instructions."""
    return f"{row['registers']} / {row['spills']} / {row['shared'] / 1024:g} / {row['tensor']}"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table, an architecture a column."""
    cells = {(r["kernel"], r["work"], r["type"], r["architecture"]): cell(r) for r in rows}
    lines = ["| kernel | work | type | " + " | ".join(ARCHITECTURES) + " |", "|---" * (3 + len(ARCHITECTURES)) + "|"]
    for key in sorted({key[:3] for key in cells}):
        found = [cells.get((*key, architecture), "") for architecture in ARCHITECTURES]
        lines.append(f"| {' | '.join((*key, *found))} |")
    return "\n".join(lines) + "\n"


def works() -> str:
    """Return what is compiled under each name."""
    found = dict.fromkeys(work for types in FULL.values() for wanted in types.values() for work in wanted)
    lines = ["", "## Work", ""]
    for work in found:
        if isinstance(work, Pooling):
            lines.append(f"- {work.name}: 512 boxes, 7x7 bins" + ", deterministic" * work.deterministic)
        else:
            lines.append(f"- {work.name}: {layer_text(work)}")
    return "\n".join(lines) + "\n"


def layer_text(layer: Layer) -> str:
    """Return a layer's shape, and how it differs from the plainest."""
    text = f"3x3, {layer.shape} to {layer.outputs} channels"
    plain = Layer(layer.name, layer.shape, layer.outputs)
    changed = {k: v for k, v in layer._asdict().items() if v != getattr(plain, k)}
    return text + "".join(f", {name.replace('_', ' ')} {value}" for name, value in changed.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu-compile-matrix.md"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.processes) as pool:
        rows = [row for found in pool.map(compile_architecture, ARCHITECTURES) for row in found]
    wrong = [fault for row in rows for fault in faults(row)]
    verdict = f"all {len(rows)} kernels keep it" if not wrong else f"{len(wrong)} times it does not"
    text = INTRODUCTION.format(versions=versions(), verdict=verdict) + table(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + works(), encoding="utf-8")
    print(text)
    print(f"written to {arguments.out}")
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
