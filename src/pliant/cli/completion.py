# SPDX-License-Identifier: Apache-2.0
"""`pliant completion`: what a shell needs to complete the commands, their options and the names of files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from pliant._check import require_package
from pliant.cli.parser import Commands, Parser, add_command

SHELLS = ("bash", "zsh", "tcsh")
EXAMPLE = 'for bash, add this line to ~/.bashrc: eval "$(pliant completion bash)"'


def add(commands: Commands[Parser], build_parser: Callable[[], Parser]) -> None:
    """Add the command, which completes what the parser of `build_parser` takes."""
    help = "print a script by which a shell completes pliant's commands and options"
    parser = add_command(commands, "completion", lambda arguments: _run(arguments, build_parser()), help)
    parser.epilog = EXAMPLE
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def _run(arguments: argparse.Namespace, parser: Parser) -> int:
    shtab = require_package("shtab", "train", "pliant completion")
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined] # which shtab looks for
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:  # argparse has no public list of them
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
