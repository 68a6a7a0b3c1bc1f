# SPDX-License-Identifier: Apache-2.0
"""Times pliant's operators on the CPU against what they extend: `python -m benchmarks.run`.

A deformable convolution is compared with plain convolution of the same shape, a RoI pooling with torchvision's RoIAlign
of the same boxes, a network with the same network of plain convolutions. One run measures all on the machine at hand
and keeps it in a file named after the machine.

All contenders of a case take turns within one run, so that a machine that slows down slows all of them; the minimum of
the rounds is compared. A ratio is a contender's time over the faster of the two baselines, contiguous and
channels_last. Before anything is timed, pliant's result is checked against the reference.

`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.run` holds all to AVX2 on a processor that has
more: PyTorch and its library by these variables, pliant by what PyTorch then says of itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.contenders import Case, Run
from benchmarks.memory import memory
from benchmarks.networks import NetworkCase
from benchmarks.processor import processor
from benchmarks.roi_pooling import RoICase
from pliant.ops import _backends, instruction_set, instruction_sets

SHAPES = [
    (1, 256, 64, 64, 256),
    (2, 256, 64, 64, 256),
    (1, 512, 32, 32, 512),
    (1, 64, 128, 128, 64),
    (1, 128, 100, 168, 128),
]
BATCHES = [(64, 32, 12, 12, 32), (32, 256, 14, 14, 256)]  # of small images
OPERATORS = ("deform_conv2d", "batches", "types", "offsets", "threads", "deform_roi_pool", "networks", "memory")
SLOW_MS = 2000.0  # what takes longer is not repeated: float16 in plain conv2d takes half a minute on some processors
AnyCase = Case | RoICase | NetworkCase


def cases(operator: str) -> Sequence[AnyCase]:
    """Return what is timed of a part of the benchmark, besides memory."""
    a, _, c, *_ = SHAPES
    small = SHAPES[3]
    parts: dict[str, list[AnyCase]] = {
        "deform_conv2d": [*(Case(*shape) for shape in SHAPES), Case(1, 256, 64, 64, 256, groups=256)],
        "batches": [Case(*shape) for shape in BATCHES],
        "types": [Case(*s, dtype=t) for t in (torch.bfloat16, torch.float16) for s in (a, c, small)],
        "offsets": [Case(*s, sigma=sigma) for s in (a, small) for sigma in (0.0, 8.0)],
        "threads": [Case(*s, threads=n) for s in (a, small) for n in (1, 2)],
        "deform_roi_pool": [RoICase(bins) for bins in (7, 14)],
        "networks": [NetworkCase("resnet50", 224, 224), NetworkCase("faster-rcnn", 480, 640)],
        "memory": [],
    }
    return parts[operator]


def time_in_turns(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return the least time of each contender in milliseconds, after one round that counts for slow ones alone."""
    first = {name: _milliseconds(run) for name, run in runs.items()}
    best = {name: ms if ms > SLOW_MS else float("inf") for name, ms in first.items()}
    repeated = {name: run for name, run in runs.items() if first[name] <= SLOW_MS}
    for _ in range(rounds):
        for name, run in repeated.items():
            best[name] = min(best[name], _milliseconds(run))
    return best


def _milliseconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def machine() -> dict[str, object]:
    """Return what the numbers depend on."""
    packages = ("torch", "torchvision", "onnxruntime", "openvino", "pliant")
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "held to": os.environ.get("ATEN_CPU_CAPABILITY"),
        "versions": {p: importlib.metadata.version(p) for p in packages if p in installed},
        "backends": [row._asdict() for row in _backends.describe()],
    }


def same_instructions() -> contextlib.AbstractContextManager[None]:
    """Hold pliant to the instruction set that PyTorch was told to stay within."""
    name = torch.backends.cpu.get_cpu_capability().lower()
    return instruction_set(name) if name in instruction_sets() else contextlib.nullcontext()


def file_name(found: dict[str, object]) -> str:
    """Return a name for a machine's results: processor, instructions, cores."""
    words = f"{found['processor']} {found['capability']} {found['cores']}cores"
    return "cpu-" + re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json"


def measure(case: AnyCase, rounds: int, *, training: bool) -> dict[str, object]:
    """Return times and ratios of one case."""
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads or threads)
    times = time_in_turns(case.contenders(training=training), rounds)
    torch.set_num_threads(threads)
    plain = min(value for name, value in times.items() if name.startswith(case.baseline))
    mode = "forward and backward" if training else "forward"
    print(f"{case} {mode}: fastest {case.baseline} {plain:.1f} ms")
    for name, value in times.items():
        print(f"    {name:<32}{value:9.1f} ms {value / plain:8.3f} x")
    ratios = {name: round(value / plain, 3) for name, value in times.items()}
    return {"case": str(case), "mode": mode, "ms": {n: round(v, 3) for n, v in times.items()}, "ratio": ratios}


def main() -> None:
    """Time every case and write the results beside the machine they hold for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, the least of which counts (default 15)")
    parser.add_argument(
        "--operators", nargs="+", choices=OPERATORS, default=OPERATORS, help="what is timed (default all)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch's pool")
    parser.add_argument("--out", type=Path, help="where the results go (default benchmarks/results/MACHINE.json)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out or Path("benchmarks/results") / file_name(machine())
    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, object]] = []

    def keep(rows: list[dict[str, object]]) -> None:  # after each case, so that none is lost
        results.extend(rows)
        record = {"machine": machine(), "rounds": arguments.rounds, "results": results}
        out.write_text(json.dumps(record, indent=1) + "\n")

    with same_instructions():
        for operator in arguments.operators:
            for case in cases(operator):
                case.check()
                keep([measure(case, arguments.rounds, training=training) for training in case.modes])
            if operator == "memory":
                keep(memory())
    print(f"written to {out}")


if __name__ == "__main__":
    main()
