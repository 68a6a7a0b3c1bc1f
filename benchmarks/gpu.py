# SPDX-License-Identifier: Apache-2.0
"""Times everything of pliant's that runs on a GPU: `python -m benchmarks.gpu`, or `make gpu-bench`.

S1 to S4 are 3x3 modulated layers at stride 1, D1 and D2 depthwise ones, against cuDNN's plain convolution in
channels_last and bfloat16. Offsets are zero, smooth (sigma 1, blurred over 9x9 pixels), or independent (sigma 3): the
further neighbours' samples lie apart, the less do caches help. R7 and R14 are RoI poolings against torchvision's
RoIAlign. Their work is captured in CUDA graphs, so that only the GPU is timed. STEP is a training step of a detector
with 13 modulated layers against the plain one.

All contenders of a case take turns within one run, and the median of the rounds is compared. A ratio is a contender's
time over the baseline's. What determinism costs is the ratio of two contenders. Before anything of the operators is
timed, pliant's result is checked against float64 on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import torch

from benchmarks.gpu_convolution import ConvCase
from benchmarks.gpu_detector import StepCase
from benchmarks.gpu_pooling import PoolingCase
from benchmarks.gpu_timing import Run, captured, prepared, times_in_turns
from benchmarks.roi_pooling import RoICase
from pliant.ops import _backends, _triton

LAYERS = {
    "S1": ((8, 256, 64, 64), 256, 1),
    "S2": ((8, 512, 32, 32), 512, 1),
    "S3": ((2, 128, 160, 160), 128, 1),
    "S4": ((2, 256, 100, 168), 256, 1),
    "D1": ((8, 256, 64, 64), 256, 256),
    "D2": ((8, 96, 128, 128), 96, 96),
}
CONVOLUTIONS = [
    ConvCase(name, shape, outputs, offsets, groups)
    for name, (shape, outputs, groups) in LAYERS.items()
    for offsets in ("zero", "smooth", "independent")
]
POOLINGS = [PoolingCase(f"R{bins}", RoICase(bins, boxes=1024)) for bins in (7, 14)]
STEPS = [StepCase("STEP", dtype) for dtype in (torch.bfloat16, torch.float32)]
MOST_STEPS = 20  # of a detector, which are long

Case = ConvCase | PoolingCase | StepCase


def report(case: Case, mode: str, ms: dict[str, float], failed: dict[str, str]) -> dict[str, object]:
    """Print and return times and ratios of one case."""
    baseline = ms[case.baseline]
    ratios = {name: round(value / baseline, 3) for name, value in ms.items()}
    print(f"{case}, {mode}")
    for name, value in ms.items():
        print(f"    {name:<28}{1e3 * value:10.1f} us {ratios[name]:8.2f} x")
    for name, why in failed.items():
        print(f"    {name:<28}cannot run here: {why}")
    us = {name: round(1e3 * value, 2) for name, value in ms.items()}
    return {"case": str(case), "mode": mode, "baseline": case.baseline, "us": us, "ratio": ratios, "failed": failed}


def measure_graphs(case: ConvCase | PoolingCase, rounds: int) -> list[dict[str, object]]:
    """Return times and ratios of an operator's case, forward, and forward and backward."""
    case.check()
    found = []
    for training, mode in ((False, "forward"), (True, "forward and backward")):
        runs, failed = prepared(case.contenders(training=training), captured)
        found.append(report(case, mode, times_in_turns(runs, rounds), failed))
    return found


def measure_step(case: StepCase, rounds: int) -> list[dict[str, object]]:
    """Return times, ratios and memory of a training step."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # as cuDNN's convolutions have it
    try:
        runs = case.contenders()
        memory = {name: _peak(run) for name, run in runs.items()}
        row = report(case, "training step", times_in_turns(runs, min(rounds, MOST_STEPS)), {})
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    return [row | {"peak_mib": memory}]


def _peak(run: Run) -> float:
    """Return the MiB that a step holds beyond what was held before it, after some that do not count."""
    for _ in range(3):
        loss = run()
        assert isinstance(loss, torch.Tensor) and bool(loss.isfinite()), f"the loss is {loss}"
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def machine() -> dict[str, object]:
    """Return what the numbers depend on."""
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    packages = ("torch", "torchvision", "triton", "deformops", "pliant")
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "platform": platform.platform(),
        "versions": {name: installed[name] for name in packages if name in installed},
        "backends": [row._asdict() for row in _backends.describe()],
    }


def chosen(names: list[str]) -> list[Case]:
    """Return the cases of these names, in the order of the tables."""
    return [case for case in (*CONVOLUTIONS, *POOLINGS, *STEPS) if case.name in names]


def main() -> None:
    """Time every case and write the results beside the machine they hold for."""
    names = list(dict.fromkeys(case.name for case in (*CONVOLUTIONS, *POOLINGS, *STEPS)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="rounds of each case (default 50; of STEP at most 20)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what is timed (default all)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"), help="where the results go")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    reason = _triton.why_not(torch.device("cuda")) if torch.cuda.is_available() else "PyTorch sees no GPU here"
    if reason is not None:
        parser.exit(2, f"benchmarks.gpu: {reason}; nothing was timed or written\n")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else deterministic algorithms refuse products
    torch.backends.cudnn.benchmark = True
    results: list[dict[str, object]] = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for case in chosen(arguments.only):
        measured = measure_step if isinstance(case, StepCase) else measure_graphs
        results += measured(case, arguments.rounds)  # type: ignore[operator]
        record = {"machine": machine(), "rounds": arguments.rounds, "results": results}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")  # after each case, so that none is lost
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
