# SPDX-License-Identifier: Apache-2.0
"""`pliant demo`: a detector of trees on real photographs, and what deformation buys on turned animals, in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from pliant._check import require_package
from pliant.cli.parser import Commands, Parser, add_command, positive
from pliant.cli.train import NEEDED

DEFAULT_STEPS = 160
DEFAULT_EPOCHS = 8


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "train a tree detector on aerial photographs and compare plain with deformable classifiers, in minutes"
    parser = add_command(commands, "demo", _run, help)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("demo"), help="folder for the results (default: demo)"
    )
    parser.add_argument(
        "--cache", metavar="DIR", type=Path, help="folder for the downloaded data, 37 MB (default: OUT/cache)"
    )
    help = f"training steps of the detector (default: {DEFAULT_STEPS})"
    parser.add_argument("--steps", metavar="N", type=positive, default=DEFAULT_STEPS, help=help)
    help = f"epochs of each of the four classifiers (default: {DEFAULT_EPOCHS})"
    parser.add_argument("--epochs", metavar="N", type=positive, default=DEFAULT_EPOCHS, help=help)
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of all trainings (default: 0)")


def _run(arguments: argparse.Namespace) -> int:
    for module in (*NEEDED, "matplotlib"):
        require_package(module, "train", "pliant demo")
    from pliant.demo.run import run_demo

    run_demo(arguments.out, cache=arguments.cache, steps=arguments.steps, epochs=arguments.epochs, seed=arguments.seed)
    return 0
