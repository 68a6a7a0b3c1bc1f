# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of animals, plain against deformable: `python -m benchmarks.accuracy.segmentation --data DIR`.

`DIR` is a folder that `python -m benchmarks.animal_scenes` wrote; its name is the data set's in the rows. DeepLab on
MobileNetV2, as in docs/deeplab.md, with five seeds. The deformable arms have more parameters than plain; the control
`still-c5` has as many as `mdconv-c5`, layer by layer, and modulates as it does, but its offsets are held within a
thousandth of a cell. With `--tests` each network is also tested on the validation scenes of other folders, which hold
animals turned further, smaller or larger than those of the training.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.driver import drive, study_parser
from benchmarks.accuracy.rows import RESULTS, Key, Row
from pliant.train import TrainConfig
from pliant.train.engine import evaluate
from pliant.train.model import load_run
from pliant.train.run import resume, train
from pliant.train.tasks import task_of

ROWS = RESULTS / "segmentation.jsonl"
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "still-c5": {"deform": "c5", "offset_limit": 0.001},
    "mdconv-c5": {"deform": "c5"},
    "dconv-c5": {"deform": "c5", "modulated": False},
    "mdconv-c4-c5": {"deform": "c4-c5"},
}
SEEDS, EPOCHS = 5, (8, 32)


def plan(scenes: str) -> list[Key]:
    """Return all runs on the scenes of one folder, the shorter ones first, seed by seed."""
    return [
        {"dataset": scenes, "arm": arm, "epochs": epochs, "seed": seed}
        for epochs, seed, arm in itertools.product(EPOCHS, range(SEEDS), ARMS)
    ]


def config_of(key: Key, data: Path, weights: Path | None) -> TrainConfig:
    """Return the settings of a run; arms differ in `ARMS` alone."""
    return TrainConfig(
        data=str(data),
        model="deeplab",
        backbone="mobilenet_v2",
        weights=None if weights is None else str(weights),
        val_split=None,
        min_size=(128,),
        max_size=128,
        batch_size=8,
        epochs=key["epochs"],
        optimizer="adamw",
        schedule="onecycle",
        lr=1e-3,
        offset_lr_scale=0.3,
        checkpoint_every=25,
        seed=key["seed"],
        device="cpu",
        **ARMS[key["arm"]],
    )


def run(key: Key, data: Path, weights: Path | None, work: Path, tests: Sequence[Path]) -> Row:
    """Train, or go on training, one network, and test it on the validation scenes, and on those of `tests`."""
    folder = work / "-".join(str(key[name]) for name in ("dataset", "arm", "epochs", "seed"))
    started = time.process_time()
    resumed = (folder / "config.json").is_file()
    if not (resume(folder) if resumed else train(config_of(key, data, weights), folder)):
        raise KeyboardInterrupt
    seconds = time.process_time() - started
    model, categories, config = load_run(folder)

    def tested(scenes: Path) -> dict[str, Any]:
        there = dataclasses.replace(config, data=str(scenes))
        examples = task_of(there).open_data(there, "val", training=False, known=categories)
        return evaluate(model, examples, torch.device("cpu"), there).as_dict()

    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": tested(data),
        "tests": {scenes.name: tested(scenes) for scenes in tests},
        "cpu_seconds": None if resumed else round(seconds, 1),  # of a resumed run only a part is known
    }


def main() -> None:
    """Run what is missing."""
    parser = study_parser(__doc__, ROWS, tuple(ARMS), SEEDS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of scenes")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="MobileNetV2 of ImageNet (default: random)")
    parser.add_argument("--epochs", nargs="+", type=int, choices=EPOCHS, default=EPOCHS, help="(default: all)")
    parser.add_argument("--tests", type=Path, nargs="*", default=(), metavar="DIR", help="further folders of scenes")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), metavar="DIR", help="folder of the runs")
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("data", "weights", "work", "tests")}
    keys = [key for key in plan(arguments.data.name) if key["epochs"] in arguments.epochs]
    drive(arguments, keys, functools.partial(run, **given))


if __name__ == "__main__":
    main()
