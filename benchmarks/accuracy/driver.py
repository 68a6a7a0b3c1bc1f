# SPDX-License-Identifier: Apache-2.0
"""The command line that all studies share: which runs, how many at a time, for how long."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.accuracy.rows import Key, Row, git_commit, missing, read_rows, run_missing


def study_parser(description: str | None, rows: Path, arms: Sequence[str], seeds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every study; `rows` is the file that rows are added to by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=Path, default=rows, metavar="FILE", help=f"where rows are added (default: {rows})"
    )
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms, help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(seeds), help=f"(default: 0 to {seeds - 1})")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each (default: 2)")
    parser.add_argument("--minutes", type=float, default=60, help="after which no further run starts (default: 60)")
    parser.add_argument("--commit", help="of the code, where it is no git checkout")
    parser.add_argument("--list", action="store_true", help="say what is missing, run nothing")
    return parser


def drive(arguments: argparse.Namespace, plan: Sequence[Key], run: Callable[[Key], Row]) -> None:
    """Run what is missing of the arms and seeds that are asked for, or list it."""
    keys = [key for key in plan if key["arm"] in arguments.arms and key["seed"] in arguments.seeds]
    if arguments.list:
        for key in missing(keys, read_rows(arguments.rows)):
            print(key)
        return
    commit = arguments.commit or git_commit()
    left = run_missing(keys, run, arguments.rows, jobs=arguments.jobs, seconds=60 * arguments.minutes, commit=commit)
    print(f"{left} of {len(keys)} runs are still missing")
