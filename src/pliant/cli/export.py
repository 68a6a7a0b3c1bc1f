# SPDX-License-Identifier: Apache-2.0
"""`pliant export`: a trained model as an ONNX file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pliant._check import fail, require_package
from pliant.cli.parser import Commands, Parser, add_command, add_run, positive

if TYPE_CHECKING:
    from torch import Tensor


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "export", _run, "write a trained model as an ONNX file, and compare it with the model"
    )
    add_run(parser)
    parser.add_argument("--out", metavar="FILE.onnx", type=Path, required=True, help="the file to write")
    help = "height and width in pixels of the images that the file takes; it resizes them as the model does"
    parser.add_argument("--size", metavar=("H", "W"), type=positive, nargs=2, required=True, help=help)
    help = "a photograph to compare on (default: noise)"
    parser.add_argument("--image", metavar="IMAGE", type=Path, help=help)
    help = "version of ONNX, 19 or newer (default: 19; with --decompose 16)"
    parser.add_argument("--opset", metavar="N", type=positive, help=help)
    help = "write GridSample and Conv in place of DeformConv, for runtimes without it"
    parser.add_argument("--decompose", action="store_true", help=help)


def _run(arguments: argparse.Namespace) -> int:
    require_package("torchvision", "train", "pliant export")
    require_package("onnx", "export", "pliant export")
    import torch

    from pliant.export import check_opset, compare_with_onnx, export_onnx
    from pliant.surgery import fuse
    from pliant.train.model import load_run

    out: Path = arguments.out
    if out.suffix != ".onnx":
        fail(
            "out",
            "must end in .onnx, the one kind of file that is written",
            str(out),
            f"use {out.with_suffix('.onnx')}",
        )
    check_opset(arguments.opset, decompose=arguments.decompose)
    model, _, _ = load_run(arguments.run_folder)
    image = _image(arguments.image, tuple(arguments.size))
    with torch.no_grad():
        expected = model([image])[0]
    options = {"opset": arguments.opset, "decompose": arguments.decompose}
    out.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(fuse(model), ([image],), out, input_names=["image"], output_names=list(expected), **options)
    height, width = arguments.size
    print(f"wrote {out}: image (3, {height}, {width}), RGB 0..1, to {', '.join(expected)}")
    found = compare_with_onnx(out, {"image": image}, expected)
    for difference in found:
        print(f"{difference} {'' if difference.passes else '(too much)'}".rstrip())
    if not all(difference.passes for difference in found):
        print("pliant: the file's predictions differ from the model's by more than that", file=sys.stderr)
        return 1
    return 0


def _image(path: Path | None, size: tuple[int, int]) -> Tensor:
    """Return the photograph resized to `size`, or noise: (3, H, W), RGB 0..1."""
    import torch
    from torch.nn.functional import interpolate

    from pliant.data import read_image

    if path is None:
        return torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    photo = read_image(path).unsqueeze(0).float() / 255  # (1, 3, H, W)
    return interpolate(photo, size, mode="bilinear", antialias=True).squeeze(0)
