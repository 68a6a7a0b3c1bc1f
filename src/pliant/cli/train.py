# SPDX-License-Identifier: Apache-2.0
"""`pliant train`: one option for each field of `TrainConfig`, and the recipes of the papers."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from pliant._check import fail, require_package
from pliant.cli.options import add_options, given_options
from pliant.cli.parser import Commands, Parser, add_command
from pliant.train import TrainConfig
from pliant.train.config import GROUPS, overridden

STOPPED = 130
NEEDED = ("torchvision", "accelerate", "rich", "safetensors", "faster_coco_eval")


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(commands, "train", _run, "train a model, with deformable layers where asked", own_help=True)
    _describe(parser, None)


def _describe(parser: Parser, model: str | None) -> None:
    """Add the arguments: all of them, or those that concern one model."""
    parser.usage = "pliant train --data DIR --out RUN [--model NAME] [--recipe NAME] [option ...]"
    parser.epilog = (
        "`pliant train --model NAME --help` lists what that model has. Many processes: accelerate launch -m pliant "
        "train ..., or torchrun -m pliant train ..."
    )
    parser.add_argument("-h", "--help", action=_Help, help="show this help; after --model NAME, what that model has")
    parser.add_argument("--out", metavar="RUN", type=Path, help="new folder for the run")
    help = (
        "continue the run in this folder with its settings; --epochs, --steps, --data, --workers, --device replace them"
    )
    parser.add_argument("--resume", metavar="RUN", type=Path, help=help)
    help = (
        "continue the run in --out if there is one with the same settings, else start it: for jobs that are restarted"
    )
    parser.add_argument("--continue", dest="continue_run", action="store_true", help=help)
    help = "start from the settings of a row of the papers' tables; --config and options override them"
    parser.add_argument("--recipe", metavar="NAME", help=help)
    parser.add_argument("--list-recipes", action="store_true", help="list the recipes, with what the papers report")
    parser.add_argument("--config", metavar="FILE", type=Path, help="JSON file of settings; options override it")
    for group in GROUPS:
        add_options(parser, group, model)


class _Help(argparse.Action):
    """Prints the help of a model that was named before, or of all models."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        shown = Parser(prog=parser.prog, description=parser.description, add_help=False)
        _describe(shown, getattr(namespace, "model", None))
        shown.print_help()
        parser.exit()


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list_recipes:
        print(list_recipes())
        return 0
    for module in NEEDED:
        require_package(module, "train", "pliant train")
    from pliant.train.processes import end_processes
    from pliant.train.recipes import recipe
    from pliant.train.run import RESUMABLE, resume, train, train_or_resume

    given = given_options(arguments, *GROUPS)
    if arguments.resume is not None:
        foreign = [name for name in given if name not in RESUMABLE]
        foreign += [name for name in ("out", "config", "recipe", "continue_run") if getattr(arguments, name)]
        if foreign:
            rule = f"must come with {', '.join(RESUMABLE)} or nothing; the other settings are the run's"
            fail("resume", rule, ", ".join(foreign), "leave that out, or train anew with --start")
        complete = resume(arguments.resume, given)
        end_processes()
        return 0 if complete else STOPPED
    settings = dict(recipe(arguments.recipe).settings) if arguments.recipe is not None else {}
    if arguments.config is not None:
        settings = overridden(settings, TrainConfig.read(arguments.config))
    if arguments.out is None:
        fail("out", "must name the folder of the run", "nothing", "add --out RUN")
    start = train_or_resume if arguments.continue_run else train
    complete = start(TrainConfig.from_dict(overridden(settings, given)), arguments.out)
    end_processes()
    return 0 if complete else STOPPED


def list_recipes() -> str:
    """Return the recipes by source, one a line: name, row, and what the source reports."""
    from pliant.train.recipes import recipes

    lines = []
    for source, rows in itertools.groupby(recipes().values(), key=lambda entry: entry.source):
        lines += ["", source]
        lines += [f"  {r.name:42}  {r.row}" + (f" (reported: {r.reported})" if r.reported else "") for r in rows]
    return "\n".join(lines[1:])
