# SPDX-License-Identifier: Apache-2.0
"""Run as a program, in tests: every reader of strangers' files on good files with random changes.

    python -m helpers.fuzz.readers --cases 200000 --seed 1

A reader takes such a file, or refuses it in one line.

Whatever else happens is a finding: another exception, more than five seconds, more than 300 MB, a message that is not
one printable line, a data set that opens and then breaks, or a box without area. Each finding is printed with the
number of its file, and `--only TARGET --file NUMBER` makes it again. `--cases 0` goes on until stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from helpers.fuzz.mutations import mutated
from pliant._check import PliantError
from pliant.backbones import read_tensors
from pliant.checkpoints.files import read_checkpoint
from pliant.data import detection_transforms, open_detection, open_segmentation, read_image, read_label_map
from pliant.evaluation import load_results
from pliant.surgery.select import select
from pliant.train import TrainConfig
from pliant.train.checkpoint import load_checkpoint
from pliant.train.model import load_categories
from pliant.train.progress import read_metrics

MOST_SECONDS = 5
MOST_MEMORY = 300_000  # kilobytes
SIZE = (8, 6)


@dataclass(frozen=True)
class Target:
    """A reader: the files to begin with, where one of them lies in a folder, what else is there, and what reads it."""

    kind: str
    seeds: tuple[bytes, ...]
    place: str
    prepare: Callable[[Path], object]
    read: Callable[[Path], object]


def run(root: Path, target: Target, content: bytes) -> str:
    """Return what became of one file: "taken", or "refused"; raise whatever is a finding."""
    file = root / target.place
    file.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(MOST_SECONDS)
    outcome = "taken"
    try:
        target.read(root)
    except PliantError as error:
        outcome = "refused"
        if not str(error).isprintable():
            raise AssertionError(f"not one printable line: {error!r}") from error
    finally:
        signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MOST_MEMORY:
        raise AssertionError(f"{grown} kB for a file of {len(content)} bytes")
    return outcome


def fuzz(name: str, files: range, seed: int) -> Iterator[tuple[int, str]]:
    """Yield for each file of a target its number and "taken", "refused", or the traceback of a finding."""
    root = Path(tempfile.mkdtemp(prefix="pliant-fuzz-"))
    target = targets()[name]
    target.prepare(root)
    before = signal.signal(signal.SIGALRM, _too_slow)
    try:
        for number in files:
            chance = random.Random(f"{name} {seed} {number}")
            content = mutated(chance.choice(target.seeds), target.kind, chance)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield number, run(root, target, content)
            except (Exception, _Slow):  # noqa: BLE001 - here every exception is the result
                yield number, traceback.format_exc()
    finally:
        signal.signal(signal.SIGALRM, before)
        shutil.rmtree(root)


class _Slow(BaseException):
    """The alarm rang; not an Exception, so that no reader turns it into a refusal."""


def _too_slow(*_: object) -> NoReturn:
    raise _Slow(f"more than {MOST_SECONDS} seconds")


def targets() -> dict[str, Target]:
    """Return every target by its name."""
    data = {
        "coco": Target("json", (_coco(),), "train.json", _images, _use_boxes),
        "voc": Target("xml", (_voc(),), "Annotations/a.xml", _voc_folder, _use_boxes),
        "voc-list": Target("bytes", _LISTS, "ImageSets/Main/train.txt", _voc_folder, _use_boxes),
        "classes-txt": Target("bytes", (b"ground\ntree\nhouse\n",), "classes.txt", _label_folder, _use_labels),
        "classes-json": Target("json", _CLASSES, "classes.json", _label_folder, _use_labels),
        "label-map": Target(
            "bytes", tuple(_label_maps()), "a.png", _nothing, lambda root: read_label_map(root / "a.png")
        ),
        "image": Target("bytes", tuple(_pictures()), "a.jpg", _nothing, lambda root: read_image(root / "a.jpg")),
        "results": Target("json", (_results(),), "r.json", _nothing, lambda root: load_results(root / "r.json")),
    }
    runs = {
        "config": Target("json", (_config(),), "config.json", _nothing, _use_config),
        "categories": Target("json", (b'[{"id": 3, "name": "oak"}]',), "categories.json", _nothing, load_categories),
        "metrics": Target("bytes", (_METRICS,), "metrics.jsonl", _nothing, read_metrics),
        "checkpoint": Target("bytes", (_torch_file(),), "a.pt", _nothing, lambda root: load_checkpoint(root / "a.pt")),
        "weights": Target("bytes", (_torch_file(),), "a.pth", _nothing, lambda root: read_tensors(root / "a.pth")),
        "safetensors": Target("bytes", (save(_TENSORS),), "a.safetensors", _nothing, _use_safetensors),
        "mxnet": Target("bytes", (_mxnet(),), "a.params", _nothing, lambda root: read_checkpoint(root / "a.params")),
    }
    return {**data, **runs}


def _nothing(root: Path) -> None:
    """No other file is needed."""


def _noise(mode: str) -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pictures() -> Iterator[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        yield _saved(_noise("RGB"), kind, exif=exif)
    for kind in ("BMP", "GIF", "PPM", "JPEG2000"):
        yield _saved(_noise("RGB"), kind)
    yield _saved(_noise("RGB"), "JPEG", progressive=True)
    yield _saved(_noise("CMYK"), "TIFF", compression="tiff_lzw")
    yield _saved(Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300), "PNG")
    yield _saved(_noise("RGB").quantize(8), "PNG", transparency=b"\x00\x80")


def _label_maps() -> Iterator[bytes]:
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        yield _saved(_noise("L"), kind)
    yield _saved(_noise("RGB").quantize(8), "PNG")


def _images(root: Path) -> None:
    for name in ("a.png", "b.png"):
        _noise("RGB").save(root / name)


def _coco() -> bytes:
    box = {"image_id": 1, "category_id": 5, "bbox": [1, 2, 4, 3], "area": 12, "iscrowd": 0}
    masks = [[[1, 2, 5, 2, 5, 5, 1, 5]], {"size": [6, 8], "counts": [8, 3, 37]}, {"size": [6, 8], "counts": "8360"}]
    return json.dumps(
        {
            "images": [{"id": i, "file_name": f"{n}.png", "width": 8, "height": 6} for i, n in ((1, "a"), (2, "b"))],
            "annotations": [{"id": i, **box, "segmentation": mask} for i, mask in enumerate(masks, 1)],
            "categories": [{"id": 5, "name": "oak"}, {"id": 9, "name": "ash"}],
        }
    ).encode()


def _voc() -> bytes:
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>6</xmax><ymax>5</ymax></bndbox>"
    one = f"<object><name>oak</name><difficult>0</difficult>{box}</object>"
    size = "<size><width>8</width><height>6</height><depth>3</depth></size>"
    return f"<annotation><filename>a.png</filename>{size}{one}{one}</annotation>".encode()


def _voc_folder(root: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    _images(root / "JPEGImages")
    for name in ("a", "b"):
        (root / "Annotations" / f"{name}.xml").write_bytes(_voc().replace(b"a.png", f"{name}.png".encode()))
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")


_LISTS = (b"a\nb\n", b"\xef\xbb\xbfa\r\n")
_CLASSES = (b'["ground", "tree", "house"]', b'{"0": "ground", "2": "tree"}')


def _label_folder(root: Path) -> None:
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True)
    _noise("RGB").save(root / "images" / "train" / "a.png")
    Image.fromarray((np.arange(48) % 3).astype(np.uint8).reshape(6, 8)).save(root / "labels" / "train" / "a.png")


def _use_boxes(root: Path) -> None:
    """Open and read everything, mirrored, as a training does."""
    for masks in (False, True):
        if masks and (root / "Annotations").is_dir():
            continue
        dataset = open_detection(root, masks=masks, transforms=detection_transforms(flip=1.0))
        for _, target in dataset:
            boxes = target["boxes"]
            assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all() and torch.isfinite(target["area"]).all()
        json.dumps(dataset.coco_ground_truth(), allow_nan=False)
        assert all(line.isprintable() for line in dataset.report.summary())


def _use_labels(root: Path) -> None:
    dataset = open_segmentation(root)
    assert len(dataset) == 1 and dataset[0][1]["labels_map"].shape == (6, 8)


def _results() -> bytes:
    one = {"image_id": 1, "category_id": 5, "bbox": [1, 2, 4, 3], "score": 0.5}
    return json.dumps([one, {**one, "segmentation": {"size": [6, 8], "counts": "8360"}}]).encode()


def _config() -> bytes:
    return json.dumps(TrainConfig(data="x").as_dict()).encode()


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer4 = torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 3) for _ in range(30)))


_NET = _Net()


def _use_config(root: Path) -> None:
    config = TrainConfig.load(root / "config.json")
    if config.deform:
        select(_NET, config.deform)


_METRICS = b'{"step": 1, "epoch": 0, "loss": 2.5}\n{"step": 2, "epoch": 0, "loss": 2.25}\n{"step": 2, "epoch": 1}\n'
_TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def _torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": _TENSORS, "step": 7, "names": ["oak"]}, buffer)
    return buffer.getvalue()


def _use_safetensors(root: Path) -> None:
    read_tensors(root / "a.safetensors")


def _mxnet() -> bytes:
    values = np.arange(6, dtype="<f4")
    array = np.array([0xF993FAC9], "<u4").tobytes() + np.array([0], "<i4").tobytes() + np.array([2], "<u4").tobytes()
    array += np.array([2, 3], "<i8").tobytes() + np.array([1, 0, 0], "<i4").tobytes() + values.tobytes()
    name = b"arg:a_weight"
    lengths = [np.array([n], "<u8").tobytes() for n in (0x112, 0, 1, 1, len(name))]
    return lengths[0] + lengths[1] + lengths[2] + array + lengths[3] + lengths[4] + name


def main() -> int:
    """Fuzz every target in turn until so many files were tried, or for ever; return 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=0, help="files in all, shared by the targets; 0: for ever")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(targets()), help="one target")
    parser.add_argument("--file", type=int, help="make this one file of --only again, and let its exception out")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(targets())
    if arguments.file is not None:
        print(next(fuzz(names[0], range(arguments.file, arguments.file + 1), arguments.seed))[1])
        return 0
    counts: Counter[tuple[str, str]] = Counter()
    shown: Counter[str] = Counter()
    start, done, step = time.monotonic(), 0, 100
    while not arguments.cases or done < arguments.cases:
        first = done // len(names)
        for name in names:
            for number, outcome in fuzz(name, range(first, first + step), arguments.seed):
                known = outcome if outcome in ("taken", "refused") else "found"
                counts[name, known] += 1
                if known == "found":
                    where = outcome.strip().splitlines()[-1]
                    shown[where[:80]] += 1
                    if shown[where[:80]] < 3:
                        print(f"FOUND {name} file {number} seed {arguments.seed}\n{outcome}", flush=True)
        done += step * len(names)
        print(
            f"{done} files, {time.monotonic() - start:.0f} s: {dict(Counter(k for (_, k) in counts.elements()))}",
            flush=True,
        )
    for name in names:
        print(name, {kind: count for (target, kind), count in sorted(counts.items()) if target == name})
    return int(any(kind == "found" for _, kind in counts))


if __name__ == "__main__":
    sys.exit(main())
