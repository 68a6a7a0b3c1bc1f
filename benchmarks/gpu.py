# SPDX-License-Identifier: Apache-2.0
"""Times deformable convolution on a GPU against plain convolution of the same shape: `python -m benchmarks.gpu`.

Each contender's work is captured in a CUDA graph, so that only the GPU is timed, and the graphs of a case take turns
within one run; the median of the replays is compared. A ratio is a contender's time over cuDNN's plain convolution in
channels_last and bfloat16. Before anything is timed, pliant's result is checked against float64 on the CPU.

The layers are 3x3, modulated, stride 1. Offsets are zero, smooth (sigma 1, blurred over 9x9 pixels), or independent
(sigma 3): the further neighbours' samples lie apart, the less do caches help.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_contenders import Run, contenders
from pliant.ops import _backends, deform_conv2d


@dataclass(frozen=True)
class Case:
    """One layer: (N, C, H, W) to O channels, and how its offsets are spread."""

    name: str
    shape: tuple[int, int, int, int]
    outputs: int
    offsets: str

    def __str__(self) -> str:
        return f"{self.name} {self.shape} -> {self.outputs}, {self.offsets} offsets"

    def tensors(self, dtype: torch.dtype = torch.bfloat16, device: str = "cuda") -> dict[str, Tensor]:
        """Return input, offset, weight, mask and the gradient of the output, channels_last."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        N, C, H, W = self.shape
        offset = torch.zeros(N, 18, H, W)
        if self.offsets == "smooth":
            offset = functional.avg_pool2d(normal(N, 18, H + 8, W + 8), 9, 1) * 9
        elif self.offsets == "independent":
            offset = normal(N, 18, H, W) * 3
        t = {
            "input": normal(N, C, H, W),
            "weight": normal(self.outputs, C, 3, 3) / (9 * C) ** 0.5,
            "mask": torch.rand(N, 9, H, W, generator=generator),
            "grad": normal(N, self.outputs, H, W),
        }
        t = {name: tensor.to(device, dtype) for name, tensor in t.items()} | {"offset": offset.to(device)}
        return {name: tensor.contiguous(memory_format=torch.channels_last) for name, tensor in t.items()}


LAYERS = {
    "S1": ((8, 256, 64, 64), 256),
    "S2": ((8, 512, 32, 32), 512),
    "S3": ((2, 128, 160, 160), 128),
    "S4": ((2, 256, 100, 168), 256),
}
CASES = [Case(name, *layer, offsets) for name, layer in LAYERS.items() for offsets in ("zero", "smooth", "independent")]


def captured(run: Run) -> Callable[[], None]:
    """Return what replays `run` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def times_in_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each contender, with a cache that holds nothing of the round before."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            found[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in found.items()}


def check(case: Case) -> None:
    """Raise unless pliant's result for a corner of the case agrees with float64 on the CPU."""
    small = Case(case.name, (1, case.shape[1], 9, 11), case.outputs, case.offsets)
    t = small.tensors()
    fast = deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"], impl="triton")
    d = {name: tensor.cpu().double() for name, tensor in t.items()}
    slow = deform_conv2d(d["input"], d["offset"], d["weight"], padding=1, mask=d["mask"], impl="reference")
    torch.testing.assert_close(fast.cpu().double(), slow, atol=3e-2, rtol=2e-2)


def measure(case: Case, rounds: int, *, training: bool) -> dict[str, object]:
    """Return times and ratios of one case."""
    runs = {name: captured(run) for name, run in contenders(case.tensors(), training=training).items()}
    times = times_in_turns(runs, rounds)
    plain = times["cuDNN conv2d"]
    mode = "forward and backward" if training else "forward"
    print(f"{case}, {mode}")
    for name, value in times.items():
        print(f"    {name:<28}{1e3 * value:10.1f} us {value / plain:8.2f} x")
    ratios = {name: round(value / plain, 3) for name, value in times.items()}
    return {"case": str(case), "mode": mode, "us": {n: round(1e3 * v, 2) for n, v in times.items()}, "ratio": ratios}


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


def main() -> None:
    """Time every case and write the results beside the machine they hold for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="replays of each graph (default 50)")
    parser.add_argument("--only", choices=list(LAYERS), help="one layer")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"), help="where the results go")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "benchmarks.gpu: PyTorch sees no CUDA or ROCm device here; nothing was timed or written\n")
    results = []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for case in (c for c in CASES if arguments.only in (None, c.name)):
        check(case)
        results += [measure(case, arguments.rounds, training=training) for training in (False, True)]
        record = {"machine": machine(), "rounds": arguments.rounds, "results": results}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")  # after each case, so that none is lost
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
