# SPDX-License-Identifier: Apache-2.0
"""`pliant export`: a trained model as an ONNX file."""

from __future__ import annotations

import argparse
from pathlib import Path

from pliant._check import fail, require_package
from pliant.cli.parser import Commands, Parser, add_command, add_run, positive


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(
        commands, "export", _run, "write a trained model as an ONNX file, and compare it with the model"
    )
    add_run(parser)
    parser.add_argument("--out", metavar="ONNX", type=Path, required=True, help="the file to write")
    help = "height and width in pixels of the images that the file takes; it resizes them as the model does"
    parser.add_argument("--size", metavar=("H", "W"), type=positive, nargs=2, required=True, help=help)
    help = "a photograph to compare on (default: noise)"
    parser.add_argument("--image", metavar="IMAGE", type=Path, help=help)
    parser.add_argument("--opset", metavar="N", type=positive, default=19, help="version of ONNX (default: 19)")


def _run(arguments: argparse.Namespace) -> int:
    require_package("torchvision", "train", "pliant export")
    require_package("onnx", "export", "pliant export")
    import torch
    from torch.nn.functional import interpolate

    from pliant.data import read_image
    from pliant.export import MIN_OPSET, compare_with_onnx, export_onnx
    from pliant.train.model import load_run

    if arguments.opset < MIN_OPSET:
        fail("opset", f"must be at least {MIN_OPSET}, the first with DeformConv", arguments.opset, "leave it out")
    model, _, _ = load_run(arguments.run_folder)
    size = tuple(arguments.size)
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    if arguments.image is not None:
        photo = read_image(arguments.image).unsqueeze(0).float() / 255  # (1, 3, H, W)
        image = interpolate(photo, size, mode="bilinear", antialias=True).squeeze(0)
    with torch.no_grad():
        expected = model([image])[0]
    names = list(expected)
    export_onnx(model, ([image],), arguments.out, input_names=["image"], output_names=names, opset=arguments.opset)
    print(f"wrote {arguments.out}: image (3, {size[0]}, {size[1]}), RGB 0..1, to {', '.join(names)}")
    differences = compare_with_onnx(arguments.out, {"image": image}, expected)
    told = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(f"largest difference from the model, as a share of the largest value: {told}")
    return 0
