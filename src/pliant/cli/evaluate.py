# SPDX-License-Identifier: Apache-2.0
"""`pliant eval`: the COCO table of a trained detector."""

from __future__ import annotations

import argparse
import json

from pliant._check import require_package

from .parser import Commands, Parser, add_command, add_device, add_run, positive


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "eval", _run, "evaluate a trained detector, print the COCO table, write RUN/metrics.json"
    )
    add_run(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (default: the one trained on)")
    parser.add_argument("--split", metavar="NAME", help="split to evaluate on (default: the run's --val-split)")
    help = "detections per image that count (default: 100 as in COCO, or the model's own limit if that is higher)"
    parser.add_argument("--max-detections", metavar="N", type=positive, help=help)
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="processes that read images (default: 0)")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> int:
    rich = require_package("rich.progress", "train", "pliant eval")
    from pliant.data import eval_transforms, open_dataset
    from pliant.train.engine import evaluate
    from pliant.train.model import load_run, pick_device

    model, categories, config = load_run(arguments.run_folder)
    data, split = arguments.data or config.data, arguments.split or config.val_split or "val"
    dataset = open_dataset(data, split, categories=categories, transforms=eval_transforms(), verify="pixels")
    limit = arguments.max_detections or max(100, config.max_detections)
    model.roi_heads.detections_per_img = max(limit, config.max_detections)
    device = pick_device(arguments.device)
    with rich.Progress(console=_stderr(), transient=True) as progress:
        task = progress.add_task(f"evaluate {split}", total=len(dataset))
        metrics, _ = evaluate(
            model.to(device),
            dataset,
            device,
            workers=arguments.workers,
            max_detections=limit,
            on_image=lambda done, total: progress.update(task, completed=done),
        )
    problems = "; ".join(dataset.report.summary())
    print(f"{data}, split {split}: {len(dataset)} images, {dataset.report.boxes} boxes; {problems}")
    print(metrics.table())
    path = arguments.run_folder / "metrics.json"
    record = {"data": str(data), "split": split, "problems": dataset.report.as_dict(), **metrics.as_dict()}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return 0


def _stderr() -> object:
    from rich.console import Console

    return Console(stderr=True)
