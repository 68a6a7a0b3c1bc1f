# SPDX-License-Identifier: Apache-2.0
"""`pliant predict`: predictions on images, as JSON and as pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pliant._check import counted, fail, fail_because, require_package
from pliant.cli.options import add_options, given_options
from pliant.cli.parser import Commands, Parser, add_command, add_device, add_run, positive, share
from pliant.train import TrainConfig
from pliant.train.options import InferenceOptions, applies

if TYPE_CHECKING:
    from torch import Tensor

    from pliant.data import UnreadableImageError

Drawn = Literal["predictions", "bins"]


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "predict on images: write predictions.json (boxes as COCO results) and a picture of each image"
    parser = add_command(commands, "predict", _run, help)
    add_run(parser)
    help = "image files, folders of them, patterns such as 'photos/*.jpg', or videos"
    parser.add_argument("images", metavar="IMAGES", nargs="+", type=Path, help=help)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    help = "predict on each N-th frame of a video (default: 1)"
    parser.add_argument("--every", metavar="N", type=positive, default=1, help=help)
    help = "draw boxes of at least this score, 0..1 (detectors only; default: 0.5); the JSON holds all"
    parser.add_argument("--min-score", metavar="X", type=share, help=help)
    help = "draw the predictions (default), or the bins of deformable RoI pooling on them (v1 paper, Fig. 7)"
    parser.add_argument("--draw", choices=get_args(Drawn), default="predictions", help=help)
    add_device(parser)
    add_options(parser, InferenceOptions)


def _run(arguments: argparse.Namespace) -> int:
    rich = require_package("rich.progress", "train", "pliant predict")
    from pliant.data import UnreadableImageError
    from pliant.evaluation import save_results
    from pliant.surgery import fuse
    from pliant.train.model import load_run, pick_device
    from pliant.train.tasks import task_of
    from pliant.train.tasks.base import predict_batch

    paths = image_paths(arguments.images)
    has_videos = any(map(_is_video, paths))
    if has_videos:
        require_package("av", "video", "reading a video")
    model, categories, config = load_run(arguments.run_folder, given_options(arguments, InferenceOptions))
    min_score = _min_score(arguments.min_score, config)
    device, task = pick_device(arguments.device), task_of(config)
    predict = task.predictor(fuse(model).to(device), config)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, read, unreadable = [], 0, 0
    total = None if has_videos else len(paths)
    for found in rich.track(_pictures(paths, arguments.every), "predict", total=total, transient=True):
        if isinstance(found, UnreadableImageError):
            print(f"pliant: left out: {' '.join(str(found).split())}", file=sys.stderr)
            unreadable += 1
            continue
        read += 1
        output = predict_batch(predict, [found.image.float() / 255], device)[0]
        results += [{**record, **found.source} for record in task.records(found.image_id, output, categories)]
        picture = arguments.out / f"{found.name}.png"
        if arguments.draw == "bins":
            task.draw_bins(model, found.image, output, picture, min_score=min_score)
        else:
            task.draw(found.image, output, picture, categories=categories, min_score=min_score)
    save_results(results, arguments.out / "predictions.json")
    print(f"{len(results)} {task.found} on {counted(read, 'image')}; wrote {arguments.out}")
    return 2 if unreadable else 0


@dataclass(frozen=True)
class _Picture:
    """An image file or a frame of a video: its pixels, its number from 1, and what names it in the results."""

    image: Tensor
    image_id: int
    name: str
    source: dict[str, object]


def _pictures(paths: Sequence[Path], every: int) -> Iterator[_Picture | UnreadableImageError]:
    """Read the files, of a video each `every`-th frame; in the place of a file that cannot be read comes the error."""
    from pliant.data import UnreadableImageError, read_image, video_frames

    image_id = 0
    for path in paths:
        source: dict[str, object] = {"file_name": str(path)}
        try:
            if not _is_video(path):
                image_id += 1
                yield _Picture(read_image(path), image_id, f"{image_id:04d}_{path.stem}", source)
                continue
            for frame, image in video_frames(path, every=every):
                image_id += 1
                name = f"{image_id:04d}_{path.stem}_{frame:06d}"
                yield _Picture(image, image_id, name, {**source, "frame": frame})
        except UnreadableImageError as error:
            yield error


def _is_video(path: Path) -> bool:
    from pliant.data import VIDEO_EXTENSIONS

    return path.suffix.lower() in VIDEO_EXTENSIONS


def _min_score(given: float | None, config: TrainConfig) -> float:
    """The least score of a box that is drawn; a `PliantError` if one is given and the model has no boxes."""
    if given is not None and not applies(("detection",), config.model):
        reason = "it labels every pixel, or gives the best five labels, whatever their scores"
        fail_because("min_score", f"must be left out with the model {config.model!r}", reason, "it is for detectors")
    return 0.5 if given is None else given


def image_paths(given: Sequence[Path]) -> list[Path]:
    """Return the files among `given` and, sorted, the images below its folders and those that a pattern names.

    A pattern (`*`, `**`, `?`, `[a-c]`) is for names that no shell has filled in; a file of that very name comes first.

    Raises:
        PliantError: a name or a pattern fits nothing, or no image is left.
    """
    from pliant.data import VIDEO_EXTENSIONS
    from pliant.data.files import image_names
    from pliant.data.images import EXTENSIONS

    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += [path / name for name in sorted(image_names(path))]
        elif path.is_file():
            paths.append(path)
        elif matches := [match for match in _matches(path) if match.suffix.lower() in (*EXTENSIONS, *VIDEO_EXTENSIONS)]:
            paths += matches
        else:
            fail("images", "must be files, folders or patterns", str(path), "check the path")
    if not paths:
        fail("images", f"must hold images ({', '.join(EXTENSIONS)})", str(given[0]), "give files")
    return paths


def _matches(pattern: Path) -> list[Path]:
    """The files that a pattern names, in order of their paths, without hidden ones and those in hidden folders."""
    from pliant.data.files import is_hidden

    named = set(pattern.parts)
    found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
    return sorted(p for p in found if p.is_file() and not any(is_hidden(part) for part in set(p.parts) - named))
