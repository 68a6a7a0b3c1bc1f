# SPDX-License-Identifier: Apache-2.0
"""`pliant eval`: the metric of a trained model."""

from __future__ import annotations

import argparse
import json

from pliant._check import require_package

from .parser import Commands, Parser, add_command, add_device, add_run, positive


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(commands, "eval", _run, "evaluate a trained model, print its metric, write RUN/metrics.json")
    add_run(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (default: the one trained on)")
    parser.add_argument("--split", metavar="NAME", help="split to evaluate on (default: the run's --val-split)")
    help = "detections per image that count (default: 100 as in COCO, or the model's own limit if that is higher)"
    parser.add_argument("--max-detections", metavar="N", type=positive, help=help)
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="processes that read images (default: 0)")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> int:
    rich = require_package("rich.progress", "train", "pliant eval")
    from pliant.train.engine import evaluate
    from pliant.train.model import load_run, pick_device
    from pliant.train.tasks import task_of

    given = {"data": arguments.data, "counted_detections": arguments.max_detections}
    changed = {name: value for name, value in given.items() if value is not None}
    model, categories, config = load_run(arguments.run_folder, changed)
    task, split = task_of(config), arguments.split or config.val_split or "val"
    dataset = task.open_data(config, split, training=False, known=categories)
    device = pick_device(arguments.device)
    with rich.Progress(console=_stderr(), transient=True) as progress:
        bar = progress.add_task(f"evaluate {split}", total=len(dataset))
        metrics = evaluate(
            model.to(device),
            dataset,
            device,
            config,
            workers=arguments.workers,
            on_image=lambda done, total: progress.update(bar, completed=done),
        )
    problems = "; ".join(dataset.report.summary())
    print(f"{config.data}, split {split}: {task.contents(dataset)}; {problems}")
    print(metrics.table())
    path = arguments.run_folder / "metrics.json"
    record = {"data": config.data, "split": split, "problems": dataset.report.as_dict(), **metrics.as_dict()}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return 0


def _stderr() -> object:
    from rich.console import Console

    return Console(stderr=True)
