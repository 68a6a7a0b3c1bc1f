# SPDX-License-Identifier: Apache-2.0
"""`pliant env`: which implementations run on this machine, and why not the others; needs torch alone."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

from pliant.cli.parser import Commands, Parser, add_command

OPTIONAL = (
    "torchvision",
    "timm",
    "accelerate",
    "faster-coco-eval",
    "rich",
    "safetensors",
    "matplotlib",
    "pillow",
    "shtab",
    "av",
    "tensorboard",
    "onnx",
    "onnxruntime",
    "onnxscript",
)


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "env", _run, "say which implementations of the operators run on this machine, and why not the others"
    )
    help = "compare what the compiled library computes with each instruction set; exit status 1 where one differs"
    parser.add_argument("--instruction-sets", action="store_true", help=help)


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from pliant.ops._backends import describe

    if arguments.instruction_sets:
        return _instruction_sets()
    devices = ["cpu"] + [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    print(f"python {platform.python_version()} on {platform.platform()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, devices: {', '.join(devices)}")
    print(f"pliant {_version('pliant')}")
    for row in describe():
        print(f"{row.operator:18}  {row.implementation:22}  {'yes' if row.available else 'no ':3}  {row.reason}")
    print("optional: " + ", ".join(f"{name} {_version(name)}" for name in OPTIONAL))
    return 0


def _instruction_sets() -> int:
    """Print a line for each instruction set."""
    from pliant.ops._instruction_sets import DIFFERS, compare

    rows = compare()
    for name, verdict in rows:
        print(f"{name:10}  {verdict}")
    return 1 if any(DIFFERS in verdict for _, verdict in rows) else 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)" if importlib.util.find_spec(name.replace("-", "_")) is None else "(from source)"
