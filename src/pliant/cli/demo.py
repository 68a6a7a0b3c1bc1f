# SPDX-License-Identifier: Apache-2.0
"""`pliant demo`: a deformable detector of trees, trained and evaluated on real photographs in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from pliant._check import require_package
from pliant.cli.parser import Commands, Parser, add_command, positive
from pliant.cli.train import PACKAGES

DEFAULT_STEPS = 160


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "train a tree detector on real aerial photographs in minutes, with and without deformable layers"
    parser = add_command(commands, "demo", _run, help)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("demo"), help="folder for the results (default: demo)"
    )
    parser.add_argument(
        "--cache", metavar="DIR", type=Path, help="folder for the downloaded data, 35 MB (default: OUT/cache)"
    )
    help = f"training steps of each of the two detectors (default: {DEFAULT_STEPS})"
    parser.add_argument("--steps", metavar="N", type=positive, default=DEFAULT_STEPS, help=help)
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of both detectors (default: 0)")


def _run(arguments: argparse.Namespace) -> int:
    for module in (*PACKAGES, "matplotlib"):
        require_package(module, "train", "pliant demo")
    from pliant.demo.run import run_demo

    run_demo(arguments.out, cache=arguments.cache, steps=arguments.steps, seed=arguments.seed)
    return 0
