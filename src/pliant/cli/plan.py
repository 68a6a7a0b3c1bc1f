# SPDX-License-Identifier: Apache-2.0
"""`pliant plan`: which convolutions a selection would make deformable."""

from __future__ import annotations

import argparse

from pliant._check import require_package
from pliant.cli.parser import Commands, Parser, add_command


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(commands, "plan", _run, "print which convolutions of a network would become deformable")
    parser.add_argument(
        "--model", metavar="NAME", required=True, help="a torchvision classification network, or timm:NAME"
    )
    help = "c3-c5 (stages), last3 (the last three), or a regular expression over names"
    parser.add_argument("--deform", metavar="WHERE", required=True, help=help)


def _run(arguments: argparse.Namespace) -> int:
    require_package("torchvision", "train", "pliant plan")
    from pliant.backbones import classification_network
    from pliant.surgery import plan

    print(plan(classification_network(arguments.model), arguments.deform))
    return 0
