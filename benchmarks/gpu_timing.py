# SPDX-License-Identifier: Apache-2.0
"""How work is timed on a GPU: graphs of it take turns, with cold caches, and the median counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

Run = Callable[[], object]
PEERS = ("torchvision", "deformops", "roi_align")  # whose failure is written down; a failure of pliant's ends the run


def captured(run: Run) -> Run:
    """Return what replays `run` as a CUDA graph, so that only the GPU is timed."""
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


def prepared(runs: dict[str, Run], prepare: Callable[[Run], Run] = captured) -> tuple[dict[str, Run], dict[str, str]]:
    """Return the prepared runs, and why those of other libraries that cannot run here do not."""
    ready: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name, run in runs.items():
        try:
            ready[name] = prepare(run)
        except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if not name.startswith(PEERS):
                raise
            failed[name] = str(error).partition("\n")[0]
    return ready, failed


def times_in_turns(runs: dict[str, Run], rounds: int) -> dict[str, float]:
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


def deterministic(run: Run) -> Run:
    """Return `run` with deterministic algorithms, which are chosen when it is called, or captured."""

    def chosen() -> object:
        torch.use_deterministic_algorithms(True)
        try:
            return run()
        finally:
            torch.use_deterministic_algorithms(False)

    return chosen
