# SPDX-License-Identifier: Apache-2.0
"""`pliant explain`: what a trained model samples, how far it sees, and what it rests on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pliant._check import counted, fail, require_package
from pliant.cli.parser import Commands, Parser, add_command, add_run, count, point, positive, share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pliant.analysis import Asked, Detections, View
    from pliant.train import TrainConfig

PICTURES = (".png", ".jpg", ".svg", ".pdf")
PAGES = (".html", ".htm")


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "explain what a model samples and rests on: a page or a picture of one image, or statistics of a data set"
    parser = add_command(commands, "explain", _run, help)
    add_run(parser)
    parser.add_argument("image", metavar="IMAGE", type=Path, nargs="?", help="image file (not with --data)")
    help = "report.html: a page to explore; a .png, .jpg, .svg or .pdf: a picture; with --data: a folder"
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help=help)
    _add_picture(parser.add_argument_group("pictures"))
    _add_page(parser.add_argument_group("pages"))
    group = parser.add_argument_group("statistics: effective dilation by size of object (v1, Table 2), offset health")
    group.add_argument("--data", metavar="DIR", type=Path, help="data set, as for pliant eval")
    group.add_argument("--split", metavar="NAME", default="val", help="split of it (default: val)")
    group.add_argument("--images", metavar="N", type=positive, help="at most so many images (default: all)")


def _add_picture(group: Any) -> None:
    help = (
        "about the unit at this place, in pixels of the image; several times: a panel for each (default: the middle of "
        "the surest detection)"
    )
    group.add_argument("--at", metavar="X,Y", type=point, action="append", help=help)
    group.add_argument("--detection", metavar="N", type=positive, help="about the N-th surest detection, from 1")
    help = "panels: points, locations, field, saliency, bins, effective-bins (default: points locations field)"
    group.add_argument("--show", metavar="PANEL", nargs="+", default=["points", "locations", "field"], help=help)
    group.add_argument("--layer", metavar="NAME", help="topmost layer (default: the last deformable one)")
    help = "follow samples through so many deformable layers, down from --layer (v1 paper, Fig. 5; default: 3)"
    group.add_argument("--stack", metavar="N", type=positive, default=3, help=help)
    group.add_argument("--margin", metavar="PIXELS", type=positive, help="show only so much around the place")
    help = "bound on the error of a saliency region, above 0 and at most 1 (default: 0.1)"
    group.add_argument("--epsilon", metavar="X", type=share, default=0.1, help=help)


def _add_page(group: Any) -> None:
    help = "masked images that a saliency region may take, 8 or more (default: 24)"
    group.add_argument("--budget", metavar="N", type=positive, default=24, help=help)
    help = "units whose receptive field is in the page; the nearest is shown (default: 8)"
    group.add_argument("--units", metavar="N", type=count, default=8, help=help)
    help = "surest detections with a receptive field and a saliency region in the page (default: 1)"
    group.add_argument("--saliency", metavar="N", type=count, default=1, help=help)
    group.add_argument("--min-score", metavar="X", type=share, default=0.5, help="least score of a detection, 0..1")


def _run(arguments: argparse.Namespace) -> int:
    require_package("torchvision", "train", "pliant explain")
    from pliant.train.model import load_run

    if (arguments.data is None) == (arguments.image is None):
        fail("image", "either an IMAGE or --data must be given", "both" if arguments.data else "neither", "give one")
    model, categories, config = load_run(arguments.run_folder)
    if config.deform is None:
        fix = "train one with --deform c3-c5"
        fail("run", "must have deformable layers", str(arguments.run_folder), fix)
    names = [category.name for category in categories]
    if arguments.data is not None:
        return _statistics(arguments, model, config, categories)
    suffix = arguments.out.suffix.lower()
    if suffix in PAGES:
        return _page(arguments, model, names)
    if suffix not in PICTURES:
        fix = "write report.html, for example"
        fail("out", f"must end in {', '.join(PAGES + PICTURES)}", str(arguments.out), fix)
    return _picture(arguments, model)


def _page(arguments: argparse.Namespace, model: nn.Module, names: list[str]) -> int:
    from rich.progress import Progress

    from pliant.analysis import explain
    from pliant.data import read_image

    image = read_image(arguments.image)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("explain", total=None)
        report = explain(
            model,
            image,
            title=f"{arguments.image.name}, {arguments.run_folder.resolve().name}",
            names=names,
            units=arguments.units,
            saliency=arguments.saliency,
            budget=arguments.budget,
            min_score=arguments.min_score,
            progress=lambda what, done, most: bar.update(task, description=what, completed=done, total=most),
        )
    report.save(arguments.out)
    if report.left_out:
        print(f"no room for {len(report.left_out)} layers: {', '.join(report.left_out)}")
    print(f"wrote {arguments.out} ({len(report.page) / 1e6:.1f} MB); open it in a browser")
    return 0


def _picture(arguments: argparse.Namespace, model: nn.Module) -> int:
    from rich.progress import Progress

    from pliant.analysis import detections_of, draw_inside, view_of
    from pliant.data import read_image

    view = view_of(model, read_image(arguments.image))
    asked = _asked(arguments, view, detections_of(model, view))
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("saliency", total=arguments.budget, visible="saliency" in arguments.show)
        lines = draw_inside(
            view,
            asked,
            arguments.out,
            panels=arguments.show,
            margin=arguments.margin,
            progress=lambda done, most: bar.update(task, completed=done, total=most),
        )
    print("\n".join([*lines, f"wrote {arguments.out}"]))
    return 0


def _asked(arguments: argparse.Namespace, view: View, found: Detections | None) -> list[Asked]:
    """What the picture is about: places, or one of the detections."""
    from pliant.analysis import Asked

    height, width = view.image.shape[1:]
    options = {
        "layer": arguments.layer,
        "depth": arguments.stack,
        "epsilon": arguments.epsilon,
        "budget": arguments.budget,
    }
    for x, y in arguments.at or ():
        if x > width - 1 or y > height - 1:
            fix = f"give X,Y from 0,0 to {width - 1},{height - 1}"
            fail("at", f"must lie in the image of {width} x {height} pixels", f"{x:g},{y:g}", fix)
    if arguments.at is not None and arguments.detection is None:
        return [Asked((y, x), **options) for x, y in arguments.at]
    number = 0 if found is None else len(found["boxes"])
    if arguments.detection is None and not number:
        return [Asked(((height - 1) / 2, (width - 1) / 2), **options)]
    if found is None or (arguments.detection or 1) > number:
        fix = "give --at X,Y"
        fail("detection", f"must be one of {counted(number, 'detection')} of the image", arguments.detection, fix)
    box: Tensor = found["boxes"][(arguments.detection or 1) - 1]
    label = int(found["labels"][(arguments.detection or 1) - 1])
    x, y = ((box[:2] + box[2:]) / 2 - 0.5).tolist()
    return [Asked((y, x), box if arguments.detection is not None else None, label, **options)]


def _statistics(
    arguments: argparse.Namespace, model: nn.Module, config: TrainConfig, categories: tuple[Any, ...]
) -> int:
    import dataclasses

    import torch
    from rich.progress import track

    from pliant.analysis import network_statistics
    from pliant.train.tasks import task_of

    config = dataclasses.replace(config, data=str(arguments.data))
    dataset = task_of(config).open_data(config, arguments.split, training=False, known=categories)
    number = min(len(dataset), arguments.images or len(dataset))

    def examples() -> Iterator[tuple[Tensor, Tensor]]:
        for index in track(range(number), "explain", transient=True, disable=not sys.stdout.isatty()):
            image, target = dataset[index]
            pixels = image if image.dtype == torch.uint8 else (255 * image).round().to(torch.uint8)
            yield pixels, target.get("boxes", torch.zeros(0, 4))

    statistics = network_statistics(model, examples())
    statistics.save(arguments.out)
    print(statistics.table())
    print(f"wrote {arguments.out}")
    return 0
