# SPDX-License-Identifier: Apache-2.0
"""Accuracy against the strength of a warp: `python -m benchmarks.accuracy.warped --data DIR`.

Shapes are classified that are turned, scaled, sheared and moved, by networks that differ in the kind of their last
convolutions. `DIR` holds what these two commands get, in any subset that the runs asked for need:

    pip download --no-deps animal-mnist==0.4
    apt-get download dataset-fashion-mnist        # Debian; version 0.0~git20200523.55506a9-1

Both are checked by sha256. Runs that `benchmarks/results/accuracy/warped.jsonl` holds are left out, so the study goes
on wherever it was stopped.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import torch

from benchmarks.accuracy.datasets import load_shapes
from benchmarks.accuracy.driver import drive, study_parser
from benchmarks.accuracy.rows import RESULTS, Key, Row
from pliant.demo.shapes import Settings, Shapes, deformable, fit, network

ROWS = RESULTS / "warped.jsonl"
DATASETS = ("animals", "fashion")
STRENGTHS = (1.0, 0.0, 0.5, 0.25, 0.75)  # the ends first
# Plain, of the layers' widths; plain with more parameters than any of the deformable ones; DCNv1 and DCNv2 in the last
# layer, and in the last two. "plain-equal" has 49.4 thousand parameters, "dcnv2-2" 48.9 thousand.
ARMS = ("plain-equal", "dcnv2-1", "dcnv2-2", "plain", "dcnv1-1", "dcnv1-2")
CONTROL = "plain-equal"
STORY = ARMS[:3]
EQUAL_WIDTH = 1.22
SEEDS = 5
EPOCHS = (8, 20, 40, 80, 160)


def plan(datasets: tuple[str, ...] = DATASETS) -> list[Key]:
    """Return all runs, in the order in which they are worth having."""
    stages: list[tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], int]] = [
        (("animals",), STORY, (1.0, 0.0, 0.5), 8),  # as short as the demonstration
        (("animals",), STORY, STRENGTHS, 20),
        (("animals",), STORY, (1.0, 0.0), 40),  # is it still so with twice the training?
        (("fashion",), STORY, STRENGTHS, 20),  # and on other shapes?
        (("animals",), ARMS, STRENGTHS, 20),
        (("animals",), ARMS, (1.0,), 40),
        (("animals",), STORY, (1.0,), 80),
        (("animals",), STORY, (1.0,), 160),  # not converged yet: see docs/evidence.md
        (("fashion",), ARMS, STRENGTHS, 20),
    ]
    keys: list[Key] = []
    for among, arms, strengths, epochs in stages:
        for seed, dataset, strength, arm in itertools.product(range(SEEDS), among, strengths, arms):
            key = {"dataset": dataset, "strength": strength, "arm": arm, "epochs": epochs, "seed": seed}
            if dataset in datasets and key not in keys:
                keys.append(key)
    return keys


def build(arm: str) -> torch.nn.Sequential:
    """Return the network of an arm."""
    if arm == "plain":
        return network()
    if arm == "plain-equal":
        return network(EQUAL_WIDTH)
    kind, layers = arm.split("-")
    return deformable(network(), int(layers), modulated=kind == "dcnv2")


def run(key: Key, data: Path) -> Row:
    """Train and test one network, and return its curve."""
    torch.manual_seed(key["seed"])
    shapes = load_shapes(key["dataset"], data)
    return measured(build(key["arm"]), shapes, key["strength"], Settings(key["epochs"]), key["seed"])


def measured(
    model: torch.nn.Module, shapes: tuple[Shapes, Shapes], strength: float, settings: Settings, seed: int
) -> Row:
    """Train and test `model` on warped shapes, and return what a row keeps."""
    model = model.to(memory_format=torch.channels_last)
    curve = fit(model, *shapes, strength, settings, seed=seed)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": [round(a, 5) for a in curve.accuracy],
        "loss": [round(loss, 4) for loss in curve.loss],
        "cpu_seconds": [round(s, 2) for s in curve.seconds],
    }


def main() -> None:
    """Run what is missing."""
    parser = study_parser(__doc__, ROWS, ARMS, SEEDS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the downloaded packages")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--strengths", nargs="+", type=float, choices=sorted(STRENGTHS), default=STRENGTHS)
    parser.add_argument("--epochs", nargs="+", type=int, choices=EPOCHS, default=EPOCHS)
    arguments = parser.parse_args()
    keys = [
        key
        for key in plan(tuple(arguments.datasets))
        if key["epochs"] in arguments.epochs and key["strength"] in arguments.strengths
    ]
    drive(arguments, keys, functools.partial(run, data=arguments.data))


if __name__ == "__main__":
    main()
