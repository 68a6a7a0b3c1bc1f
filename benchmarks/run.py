# SPDX-License-Identifier: Apache-2.0
"""Times deformable convolution on the CPU against plain convolution of the same shape: `python -m benchmarks.run`.

All contenders of a case take turns within one run, so that a machine that slows down slows all of them; the minimum of
the rounds is compared. A ratio is a contender's time over the faster of the two plain convolutions, contiguous and
channels_last. Before anything is timed, pliant's result is checked against the reference.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import torch

from benchmarks.contenders import Case, Run, contenders
from pliant.ops import _backends, deform_conv2d

SHAPES = [
    (1, 256, 64, 64, 256),
    (2, 256, 64, 64, 256),
    (1, 512, 32, 32, 512),
    (1, 64, 128, 128, 64),
    (1, 128, 100, 168, 128),
]


def cases() -> list[Case]:
    """Return the layers of the table: the shapes in float32, one in bfloat16, one depthwise."""
    dense = [Case(*shape) for shape in SHAPES]
    return [*dense, Case(*SHAPES[0], dtype=torch.bfloat16), Case(1, 256, 64, 64, 256, groups=256)]


def time_in_turns(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return the least time of each contender in milliseconds, after one round that does not count."""
    best = dict.fromkeys(runs, float("inf"))
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def check(case: Case) -> None:
    """Raise unless pliant's result for a corner of the case agrees with the reference."""
    small = Case(1, case.C, 9, 11, case.O, case.groups, case.sigma, case.dtype)
    t = small.tensors()
    fast, slow = (
        deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"], impl=impl)
        for impl in ("auto", "reference")
    )
    torch.testing.assert_close(fast, slow, atol=3e-2 if case.dtype == torch.bfloat16 else 1e-4, rtol=1e-2)


def machine() -> dict[str, object]:
    """Return what the numbers depend on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    packages = ("torch", "torchvision", "onnxruntime", "openvino", "pliant")
    installed = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {p: importlib.metadata.version(p) for p in packages if p in installed},
        "backends": [row._asdict() for row in _backends.describe()],
    }


def measure(case: Case, rounds: int, *, training: bool) -> dict[str, object]:
    """Return times and ratios of one case."""
    times = time_in_turns(contenders(case, training=training), rounds)
    plain = min(value for name, value in times.items() if name.startswith("conv2d"))
    mode = "forward and backward" if training else "forward"
    print(f"{case} {mode}: fastest conv2d {plain:.1f} ms")
    for name, value in times.items():
        print(f"    {name:<22}{value:9.1f} ms {value / plain:8.2f} x")
    ratios = {name: round(value / plain, 3) for name, value in times.items()}
    return {"case": str(case), "mode": mode, "ms": {n: round(v, 3) for n, v in times.items()}, "ratio": ratios}


def main() -> None:
    """Time every case and write the results beside the machine they hold for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, the least of which counts (default 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch's pool")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.json"), help="where the results go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for case in cases():
        check(case)
        results += [measure(case, arguments.rounds, training=training) for training in (False, True)]
        record = {"machine": machine(), "rounds": arguments.rounds, "results": results}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")  # after each case, so that none is lost
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
