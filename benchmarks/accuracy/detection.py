# SPDX-License-Identifier: Apache-2.0
"""Detection on photographs, plain against deformable: `python -m benchmarks.accuracy.detection --data neu=DIR`.

NEU-DET (defects of steel) and BCCD (blood cells), each a folder in Pascal VOC's layout with the splits `train` and
`val`. The arms are rows of the v2 paper as far as a small backbone allows: deformable layers in the pyramid or in the
last stages, deformable RoI pooling, mimicking. `DIR` is not part of pliant; both sets are public.

A run that is stopped goes on from its last checkpoint in `--work`; a finished one is a row in
`benchmarks/results/accuracy/detection.jsonl`.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.bootstrap import draws
from benchmarks.accuracy.driver import drive, study_parser
from benchmarks.accuracy.rows import RESULTS, Key, Row
from benchmarks.accuracy.training import short_training, trained
from pliant.data import open_detection
from pliant.evaluation import coco_results, evaluate_detections
from pliant.train import TrainConfig
from pliant.train.engine import detect
from pliant.train.model import load_run

ROWS = RESULTS / "detection.jsonl"
DATASETS = ("neu", "bccd")
PYRAMID, LAST = r"fpn\.layer_blocks", "c4-c5"
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pyramid-mdconv+mdpool": {"deform": PYRAMID, "roi_pool": "modulated"},
    # The branch of the pooling at a tenth of the rate: with Adam its three layers learn at the full rate by default.
    "pyramid-mdconv+mdpool-0.1": {"deform": PYRAMID, "roi_pool": "modulated", "roi_offset_lr_scale": 0.1},
    "pyramid-mdconv": {"deform": PYRAMID},
    # The same layers, whose offsets are held within a thousandth of a cell: what their parameters and modulation give.
    "pyramid-still": {"deform": PYRAMID, "offset_limit": 0.001},
    # Crops of 0.8 times the image's pixels; the paper's 32 of 224 pixels would have 40 times as many.
    "pyramid-mdconv+mimic-64": {
        "deform": PYRAMID, "mimic": True, "mimic_crop_size": 64, "mimic_boxes_per_image": 8,
    },
    "pyramid-dconv": {"deform": PYRAMID, "modulated": False},
    "pyramid-mdconv+dpool": {"deform": PYRAMID, "roi_pool": "deform"},
    "pyramid-mdconv+mdpool+mimic": {"deform": PYRAMID, "roi_pool": "modulated", "mimic": True, "mimic_crop_size": 96},
    # Mimicking with what may have hurt it in a pilot taken away: a moving teacher, its weight, small crops.
    "pyramid-mdconv+mdpool+mimic-still": {
        "deform": PYRAMID, "roi_pool": "modulated", "mimic": True, "mimic_crop_size": 96, "mimic_stop_gradient": True,
    },
    "pyramid-mdconv+mdpool+mimic-light": {
        "deform": PYRAMID, "roi_pool": "modulated", "mimic": True, "mimic_crop_size": 96, "mimic_reduction": "mean",
    },
    "pyramid-mdconv+mdpool+mimic-224": {
        "deform": PYRAMID, "roi_pool": "modulated", "mimic": True, "mimic_crop_size": 224, "mimic_boxes_per_image": 8,
    },
    "last-dconv": {"deform": LAST, "modulated": False},
    "last-mdconv": {"deform": LAST},
}  # fmt: skip
# A pilot; six epochs; four times as many.
STEPS = {"neu": (400, 1800, 7200), "bccd": (100, 300, 1200)}
SIDE = 200  # pixels of the shorter side
SEEDS = 3
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
DRAWN = ("ap", "ap50")
DRAWS = 200


def plan() -> list[Key]:
    """Return all runs: short trainings first, seed by seed, and within them plain beside each deformable arm."""
    return [
        {"dataset": dataset, "arm": arm, "steps": STEPS[dataset][length], "seed": seed}
        for length, dataset, seed, arm in itertools.product(range(3), DATASETS, range(SEEDS), ARMS)
    ]


def config_of(key: Key, data: Path, weights: Path | None) -> TrainConfig:
    """Return the settings of a run; arms differ in `ARMS` alone."""
    return short_training(
        data,
        weights,
        # Steel and cells look unlike ImageNet: with its first stages and statistics kept, 1800 steps taught a plain
        # detector of steel no more than 700 steps did without.
        norm="batch",
        frozen_stages=0,
        strides=(8, 16, 32),
        fpn_channels=96,
        head_channels=256,
        roi_samples=128,
        anchor_sizes=(16.0, 32.0, 64.0, 128.0),
        min_size=(SIDE,),
        max_size=2 * SIDE,
        steps=key["steps"],
        batch_size=4,
        weight_decay=1e-2,
        grad_clip=10.0,
        checkpoint_every=100,
        seed=key["seed"],
        **ARMS[key["arm"]],
    )


def run(key: Key, folders: dict[str, Path], weights: Path | None, work: Path) -> Row:
    """Train, or go on training, one detector, and test it on the validation images."""
    folder = work / "-".join(str(key[name]) for name in ("dataset", "arm", "steps", "seed"))
    seconds = trained(config_of(key, folders[key["dataset"]], weights), folder)
    model, _, _ = load_run(folder)
    data = open_detection(folders[key["dataset"]], "val")
    outputs = [(int(target["image_id"]), detect(model, image, torch.device("cpu"))) for image, target in data]
    results, truth = coco_results(outputs, data.categories), data.coco_ground_truth()
    metrics = evaluate_detections(truth, results).as_dict()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: round(metrics[name], 4) for name in NAMES},
        "per_category": {name: round(value, 4) for name, value in metrics["per_category"].items()},
        "draws": draws(truth, results, DRAWN, count=DRAWS),  # of the test images, the same for every run
        "cpu_seconds": seconds,
    }


def main() -> None:
    """Run what is missing."""
    parser = study_parser(__doc__, ROWS, tuple(ARMS), SEEDS)
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=DIR", help="neu=DIR, bccd=DIR or both")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="MobileNetV2 of ImageNet (default: random)")
    lengths = sorted({steps for several in STEPS.values() for steps in several})
    parser.add_argument("--steps", nargs="+", type=int, choices=lengths, default=lengths, help="(default: all)")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), metavar="DIR", help="folder of the runs")
    arguments = parser.parse_args()
    folders = {name: Path(folder) for name, _, folder in (given.partition("=") for given in arguments.data)}
    keys = [key for key in plan() if key["dataset"] in folders and key["steps"] in arguments.steps]
    drive(arguments, keys, functools.partial(run, folders=folders, weights=arguments.weights, work=arguments.work))


if __name__ == "__main__":
    main()
