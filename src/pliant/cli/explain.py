# SPDX-License-Identifier: Apache-2.0
"""`pliant explain`: where a deformable layer of a trained model samples around a point."""

from __future__ import annotations

import argparse
from pathlib import Path

from pliant._check import fail, require_package, suggest
from pliant.cli.parser import Commands, Parser, add_command, add_run, point, positive


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "draw where a deformable layer samples around a point of an image"
    parser = add_command(commands, "explain", _run, help)
    add_run(parser)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="image file")
    parser.add_argument("--at", metavar="X,Y", type=point, required=True, help="the point, in pixels of the image")
    parser.add_argument("--out", metavar="PNG", type=Path, required=True, help="the picture to write")
    parser.add_argument("--layer", metavar="NAME", help="layer of the backbone (default: the last deformable one)")
    help = "follow the samples through so many deformable layers, down from --layer (v1 paper, Fig. 5; default: 1)"
    parser.add_argument("--stack", metavar="N", type=positive, default=1, help=help)
    parser.add_argument(
        "--margin", metavar="PIXELS", type=positive, help="show only so much around the point (default: all)"
    )


def _run(arguments: argparse.Namespace) -> int:
    require_package("torchvision", "train", "pliant explain")
    from pliant.analysis import draw_sampling, record_offsets, sampling_points
    from pliant.data import read_image
    from pliant.train.model import load_run
    from pliant.train.tasks import task_of

    image = read_image(arguments.image)
    model, _, config = load_run(arguments.run_folder)
    if config.deform is None:
        fix = "train one with --deform c3-c5"
        fail("run", "must have deformable layers", str(arguments.run_folder), fix)
    _check_point(arguments.at, image.shape[2], image.shape[1])
    features = task_of(config).features(model, image)
    fields = record_offsets(features.network, features.input)
    top = _layer_index([field.layer for field in fields], arguments.layer)
    chosen = fields[max(0, top - arguments.stack + 1) : top + 1][::-1]
    scale = (features.size[0] / image.shape[1], features.size[1] / image.shape[2])
    x, y = arguments.at
    points = sampling_points(chosen, ((y + 0.5) * scale[0] - 0.5, (x + 0.5) * scale[1] - 0.5))
    points[:, :2] = (points[:, :2] + 0.5) / points.new_tensor(scale) - 0.5
    title = " < ".join(field.layer for field in chosen)
    draw_sampling(image, points, (y, x), arguments.out, margin=arguments.margin, title=title)
    print(f"{len(points)} samples of {title} around {x:g},{y:g}; wrote {arguments.out}")
    return 0


def _check_point(at: tuple[float, float], width: int, height: int) -> None:
    if at[0] > width - 1 or at[1] > height - 1:
        rule = f"must lie in the image of {width} x {height} pixels"
        fail("at", rule, f"{at[0]:g},{at[1]:g}", f"give X,Y from 0,0 to {width - 1},{height - 1}")


def _layer_index(names: list[str], asked: str | None) -> int:
    """The place of the layer `asked` for, or of the last."""
    if asked is None:
        return len(names) - 1
    if asked not in names:
        fix = f"leave it out for the last.{suggest(asked, names)}"
        fail("layer", f"must be one of {', '.join(names)}", repr(asked), fix)
    return names.index(asked)
