# SPDX-License-Identifier: Apache-2.0
"""What deformation buys: plain against deformable classifiers of animals, upright and at any angle."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from pliant.demo.shapes import Curve, Settings, Shapes, deformable, fit, network
from pliant.demo.silhouettes import read_silhouettes

# At this width the plain network has more parameters than the deformable one, and takes as long.
PLAIN_WIDTH = 1.22
DEFORMABLE_LAYERS = 1
KINDS = ("plain", "deformable")
WARPS = {"upright": 0.0, "any angle, size and shear": 1.0}


@dataclass(frozen=True)
class Arm:
    """One training: the warp's name, the kind of network, its parameters, and the accuracy after each epoch."""

    warp: str
    kind: str
    parameters: int
    curve: Curve


def compare(folder: Path, *, epochs: int, seed: int) -> list[Arm]:
    """Train both kinds of network on both warps for equal epochs, as many at a time as there are processors.

    Args:
        folder: the two files of the silhouettes.
        epochs: of each training.
        seed: of weights, order and warps.
    """
    jobs = [(folder, warp, kind, epochs, seed) for warp in WARPS for kind in KINDS]
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(_train, *zip(*jobs, strict=True)))


def _train(folder: Path, warp: str, kind: str, epochs: int, seed: int) -> Arm:
    parts = read_silhouettes(folder)
    train, test = (
        Shapes(torch.from_numpy(parts[split].shapes), torch.from_numpy(parts[split].kinds))
        for split in ("train", "val")
    )
    torch.manual_seed(seed)
    model = network(PLAIN_WIDTH) if kind == "plain" else deformable(network(), DEFORMABLE_LAYERS)
    model = model.to(memory_format=torch.channels_last)
    curve = fit(model, train, test, WARPS[warp], Settings(epochs), seed=seed)
    return Arm(warp, kind, sum(p.numel() for p in model.parameters()), curve)


def table(arms: list[Arm]) -> str:
    """Return the accuracies at the end, warps in rows and kinds in columns, with parameters and seconds."""
    by_place = {(arm.warp, arm.kind): arm for arm in arms}
    sizes = {kind: by_place[next(iter(WARPS)), kind].parameters for kind in KINDS}
    head = "".join(f"{f'{kind}, {sizes[kind]:,} parameters':>36}" for kind in KINDS)
    lines = [f"{'top-1 accuracy on other animals':<34}{head}"]
    for warp in WARPS:
        cells = [by_place[warp, kind].curve for kind in KINDS]
        shown = "".join(f"{f'{c.accuracy[-1]:.3f} ({c.seconds[-1]:.0f} s of CPU)':>36}" for c in cells)
        lines.append(f"{warp:<34}{shown}")
    epochs = len(arms[0].curve.accuracy)
    lines.append(f"({epochs} epochs and one seed; the study with more of both: docs/evidence.md)")
    return "\n".join(lines) + "\n"


def curves(arms: list[Arm]) -> dict[str, dict[str, list[float]]]:
    """Return the accuracies by warp and kind, as the chart wants them."""
    return {warp: {arm.kind: arm.curve.accuracy for arm in arms if arm.warp == warp} for warp in WARPS}
