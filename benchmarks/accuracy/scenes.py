# SPDX-License-Identifier: Apache-2.0
"""What the studies on scenes of animals share: a run trains one network and tests it on several folders of scenes.

A folder is one that `python -m benchmarks.animal_scenes` wrote; its name is the data set's in the rows. With `--tests`
each network is also tested on the validation scenes of other folders, which hold animals turned further, smaller or
larger than those of the training.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.driver import drive, study_parser
from benchmarks.accuracy.rows import Key, Row
from benchmarks.accuracy.training import trained
from pliant.train import TrainConfig
from pliant.train.engine import evaluate
from pliant.train.model import load_run
from pliant.train.tasks import task_of


@dataclass(frozen=True)
class Study:
    """What is compared: the file of rows, the arms, seeds and epochs, and a run's settings without its arm's.

    `config_of(data, weights)` gives what is the same for every run; `arms` the settings that each arm changes;
    `controls` the arms that each arm is compared with.
    """

    rows: Path
    arms: dict[str, dict[str, Any]]
    controls: dict[str, tuple[str, ...]]
    seeds: int
    epochs: tuple[int, ...]
    config_of: Callable[[Path, Path | None], TrainConfig]

    def plan(self, scenes: str) -> list[Key]:
        """Return all runs on the scenes of one folder, the shorter ones first, seed by seed."""
        return [
            {"dataset": scenes, "arm": arm, "epochs": epochs, "seed": seed}
            for epochs, seed, arm in itertools.product(self.epochs, range(self.seeds), self.arms)
        ]

    def config(self, key: Key, data: Path, weights: Path | None) -> TrainConfig:
        """Return the settings of a run; arms differ in `arms` alone."""
        own = {**self.arms[key["arm"]], "epochs": key["epochs"], "seed": key["seed"]}
        return dataclasses.replace(self.config_of(data, weights), **own)


def run(key: Key, study: Study, data: Path, weights: Path | None, work: Path, tests: Sequence[Path]) -> Row:
    """Train, or go on training, one network, and test it on the validation scenes, and on those of `tests`."""
    folder = work / "-".join(str(key[name]) for name in ("dataset", "arm", "epochs", "seed"))
    seconds = trained(study.config(key, data, weights), folder)
    model, categories, config = load_run(folder)

    def tested(scenes: Path) -> dict[str, Any]:
        there = dataclasses.replace(config, data=str(scenes))
        examples = task_of(there).open_data(there, "val", training=False, known=categories)
        return evaluate(model, examples, torch.device("cpu"), there).as_dict()

    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": tested(data),
        "tests": {scenes.name: tested(scenes) for scenes in tests},
        "cpu_seconds": seconds,
    }


def main(study: Study, description: str | None) -> None:
    """Run what is missing of a study, as the command line asks."""
    parser = study_parser(description, study.rows, tuple(study.arms), study.seeds)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of scenes")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="MobileNetV2 of ImageNet (default: random)")
    parser.add_argument(
        "--epochs", nargs="+", type=int, choices=study.epochs, default=study.epochs, help="(default: all)"
    )
    parser.add_argument("--tests", type=Path, nargs="*", default=(), metavar="DIR", help="further folders of scenes")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), metavar="DIR", help="folder of the runs")
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("data", "weights", "work", "tests")}
    keys = [key for key in study.plan(arguments.data.name) if key["epochs"] in arguments.epochs]
    drive(arguments, keys, functools.partial(run, study=study, **given))
