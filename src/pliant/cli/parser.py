# SPDX-License-Identifier: Apache-2.0
"""argparse with errors of one line, and the arguments that several commands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pliant._check import suggest

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2; options are never abbreviated."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def add_command(commands: Commands[Parser], name: str, run: Run, help: str, *, own_help: bool = False) -> Parser:
    """Add the command `name`, which calls `run`, and return its parser; with `own_help` it adds its `--help` itself."""
    description = help[0].upper() + help[1:] + "."
    parser = commands.add_parser(name, help=help, description=description, add_help=not own_help)
    parser.set_defaults(run=run, parser=parser)
    return parser


def reject_unknown(arguments: argparse.Namespace, unknown: Sequence[str]) -> None:
    """End with one line, the nearest option named, if there were arguments that the command does not know."""
    if unknown:
        known = sorted(set(re.findall(r"--[\w-]+", arguments.parser.format_help())))
        arguments.parser.error(f"unknown argument {unknown[0]!r}.{suggest(unknown[0].split('=')[0], known)}")


def add_run(parser: Parser) -> None:
    """Add the argument RUN."""
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="folder of a training run (its --out)")


def add_device(parser: Parser) -> None:
    """Add `--device`."""
    help = "as PyTorch names it (cpu, cuda, cuda:1, mps); auto (default): an accelerator if there is one"
    parser.add_argument("--device", metavar="NAME", default="auto", help=help)


def point(text: str) -> tuple[float, float]:
    """Parse `X,Y` in pixels."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be X,Y in pixels, e.g. 320,200; got {text!r}")
    return float(match[1]), float(match[2])


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1; got {text!r}")
    return value


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    return _at_least(1, text)


def count(text: str) -> int:
    """Parse an integer of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}; got {text!r}")
    return int(text)
