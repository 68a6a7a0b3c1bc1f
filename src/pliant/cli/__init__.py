# SPDX-License-Identifier: Apache-2.0
"""The command line: `pliant demo | train | eval | predict | explain | export | plan | ...`, each command a module."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from pliant._check import PliantError, plain
from pliant._version import __version__
from pliant._writing import FIXES
from pliant.cli import completion, convert_checkpoint, demo, env, evaluate, explain, export, plan, predict, train
from pliant.cli.parser import Parser, reject_unknown

__all__ = ["build_parser", "main"]

COMMANDS = (demo, train, evaluate, predict, explain, export, plan, convert_checkpoint, env)
INTERRUPTED = 130
UNREAD = 141  # as a shell says of a program that the signal SIGPIPE ended


def build_parser() -> Parser:
    """Return the parser with every command."""
    parser = Parser(prog="pliant", description="Deformable ConvNets for PyTorch.")
    parser.add_argument("--version", action="version", version=f"pliant {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    completion.add(commands, build_parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    That is 0 done, 2 bad input (told in one line), 130 interrupted, and 141 where what read the output, such as `head`,
    had ended: nothing is told then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where Python is embedded, or a test listens
            stream.reconfigure(errors="backslashreplace")  # names of any script on a terminal that is not UTF-8
    try:
        return _run(argv)
    except (PliantError, OSError) as error:
        unread = isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout)
        _drop_unwritten()
        if unread:
            return UNREAD
        print(f"pliant: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pliant: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    """Run one command, and write all that it printed while errors of writing can still be told."""
    try:
        arguments, unknown = build_parser().parse_known_args(argv)
        reject_unknown(arguments, unknown)
        status: int = arguments.run(arguments)
    except SystemExit:  # --help and --version end so
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _has_no_reader(stream: TextIO) -> bool:
    """Whether `stream` is a pipe whose other end is closed."""
    if not hasattr(select, "poll"):  # Windows
        return False
    polled = select.poll()
    polled.register(stream.fileno(), 0)  # errors are told whatever is asked for
    return any(events & select.POLLERR for _, events in polled.poll(0))


def _told(error: Exception) -> str:
    """The line for an error. Files that are written are named where they are; a full disk without one is printing's."""
    if isinstance(error, OSError) and error.filename is None and error.errno in FIXES:
        return f"standard output: must be a file that can be written; {error.strerror}; {FIXES[error.errno]}"
    return plain(" ".join(str(error).split()))


def _drop_unwritten() -> None:
    """Drop what was printed and cannot be written, of which Python would complain a second time at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
