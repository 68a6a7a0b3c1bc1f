# SPDX-License-Identifier: Apache-2.0
"""`pliant predict`: predictions on images, as JSON and as pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pliant._check import counted, fail, fail_because, require_package
from pliant.cli.options import add_options, given_options
from pliant.cli.parser import Commands, Parser, add_command, add_device, add_run, share
from pliant.train import TrainConfig
from pliant.train.options import InferenceOptions, applies


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "predict on images: write predictions.json (boxes as COCO results) and a picture of each image"
    parser = add_command(commands, "predict", _run, help)
    add_run(parser)
    parser.add_argument("images", metavar="IMAGES", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    help = "draw boxes of at least this score, 0..1 (detectors only; default: 0.5); the JSON holds all"
    parser.add_argument("--min-score", metavar="X", type=share, help=help)
    help = "draw the predictions (default), or the bins of deformable RoI pooling on them (v1 paper, Fig. 7)"
    parser.add_argument("--draw", choices=("predictions", "bins"), default="predictions", help=help)
    add_device(parser)
    add_options(parser, InferenceOptions)


def _run(arguments: argparse.Namespace) -> int:
    rich = require_package("rich.progress", "train", "pliant predict")
    from pliant.data import UnreadableImageError, read_image
    from pliant.evaluation import save_results
    from pliant.train.model import load_run, pick_device
    from pliant.train.tasks import task_of
    from pliant.train.tasks.base import predict_batch

    paths = image_paths(arguments.images)
    model, categories, config = load_run(arguments.run_folder, given_options(arguments, InferenceOptions))
    min_score = _min_score(arguments.min_score, config)
    device, task = pick_device(arguments.device), task_of(config)
    predict = task.predictor(model.to(device), config)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, unreadable = [], 0
    for image_id, path in enumerate(rich.track(paths, "predict", transient=True), start=1):
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            print(f"pliant: left out: {' '.join(str(error).split())}", file=sys.stderr)
            unreadable += 1
            continue
        output = predict_batch(predict, [image.float() / 255], device)[0]
        found = task.records(image_id, output, categories)
        results += [{**result, "file_name": str(path)} for result in found]
        picture = arguments.out / f"{image_id:04d}_{path.stem}.png"
        if arguments.draw == "bins":
            task.draw_bins(model, image, output, picture, min_score=min_score)
        else:
            task.draw(image, output, picture, categories=categories, min_score=min_score)
    save_results(results, arguments.out / "predictions.json")
    print(f"{len(results)} {task.found} on {counted(len(paths) - unreadable, 'image')}; wrote {arguments.out}")
    return 2 if unreadable else 0


def _min_score(given: float | None, config: TrainConfig) -> float:
    """The least score of a box that is drawn; a `PliantError` if one is given and the model has no boxes."""
    if given is not None and not applies(("detection",), config.model):
        reason = "it labels every pixel, or gives the best five labels, whatever their scores"
        fail_because("min_score", f"must be left out with the model {config.model!r}", reason, "it is for detectors")
    return 0.5 if given is None else given


def image_paths(given: Sequence[Path]) -> list[Path]:
    """Return the files among `given` and, sorted, the images below its folders; a `PliantError` if one is not there."""
    from pliant.data.files import image_names
    from pliant.data.images import EXTENSIONS

    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += [path / name for name in sorted(image_names(path))]
        elif path.is_file():
            paths.append(path)
        else:
            fail("images", "must be files or folders", str(path), "check the path")
    if not paths:
        fail("images", f"must hold images ({', '.join(EXTENSIONS)})", str(given[0]), "give files")
    return paths
