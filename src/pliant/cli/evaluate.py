# SPDX-License-Identifier: Apache-2.0
"""`pliant eval`: the metric of a trained model."""

from __future__ import annotations

import argparse

from pliant._check import plain, require_package
from pliant.cli.options import add_options, given_options
from pliant.cli.parser import Commands, Parser, add_command, add_device, add_run, count
from pliant.train.options import InferenceOptions


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(commands, "eval", _run, "evaluate a trained model, print its metric, write RUN/metrics.json")
    add_run(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of the data set (default: the one trained on)")
    parser.add_argument("--split", metavar="NAME", help="split to evaluate on (default: the run's --val-split)")
    parser.add_argument("--workers", metavar="N", type=count, default=0, help="processes that read images (default: 0)")
    add_device(parser)
    add_options(parser, InferenceOptions)


def _run(arguments: argparse.Namespace) -> int:
    rich = require_package("rich.progress", "train", "pliant eval")
    from pliant.train.engine import evaluate
    from pliant.train.files import write_json
    from pliant.train.model import load_run, pick_device
    from pliant.train.tasks import task_of

    changed = given_options(arguments, InferenceOptions)
    if arguments.data is not None:
        changed["data"] = arguments.data
    model, categories, config = load_run(arguments.run_folder, changed)
    task, split = task_of(config), arguments.split or config.val_split or "val"
    dataset = task.open_data(config, split, training=False, known=categories)
    device = pick_device(arguments.device)
    console = require_package("rich.console", "train", "pliant eval").Console(stderr=True)
    with rich.Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"evaluate {split}", total=len(dataset))
        metrics = evaluate(
            model.to(device),
            dataset,
            device,
            config,
            workers=arguments.workers,
            on_image=lambda done, total: progress.update(bar, completed=done),
        )
    path = arguments.run_folder / "metrics.json"
    record = {"data": config.data, "split": split, "problems": dataset.report.as_dict(), **metrics.as_dict()}
    write_json(path, record)
    problems = "; ".join(dataset.report.summary())
    print(f"{plain(config.data)}, split {plain(split)}: {task.contents(dataset)}; {problems}")
    print(metrics.table())
    print(f"wrote {path}")
    return 0
