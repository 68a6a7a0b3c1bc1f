# SPDX-License-Identifier: Apache-2.0
"""Small data sets on disk: photographs of noise whose two sides differ, in both layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 60, 40

Make = Callable[..., Path]  # what the fixtures are: see their inner functions


def save_noise(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    """Write an RGB image of noise; (width, height) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def cut(path: Path, keep: float = 0.5) -> None:
    """Cut off the end of a file, as a copy that was interrupted does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., Path]:
    """Write a COCO folder of images 1.jpg, 2.jpg, ..., with a box each if none are given; keywords change parts."""

    def make(annotations: Iterable[Mapping[str, Any]] | None = None, images: int = 4, /, **parts: Any) -> Path:
        names = [f"{i}.jpg" for i in range(1, images + 1)]
        for name in names:
            save_noise(tmp_path / "train2017" / name)
        listed = [{"id": 10 * i, "file_name": n, "width": WIDTH, "height": HEIGHT} for i, n in enumerate(names, 1)]
        if annotations is None:
            annotations = [{"bbox": [1, 2, 30, 9], "image_id": entry["id"]} for entry in listed]
        content = {
            "images": listed,
            "annotations": [{"id": i, "image_id": 10, "category_id": 5, **a} for i, a in enumerate(annotations, 1)],
            "categories": [{"id": 9, "name": "oak"}, {"id": 5, "name": "ash"}],
            **parts,
        }
        file = tmp_path / "annotations" / "instances_train2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        return tmp_path

    return make


def voc_xml(
    objects: str | None = None,
    *,
    file_name: str = "a.jpg",
    size: tuple[int, int] | None = (WIDTH, HEIGHT),
    head: str = "",
) -> str:
    """Return the text of an annotation; `objects` is what `voc_object` returns, joined, and one box by default."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    objects = voc_object("oak", 2, 3, 31, 11) if objects is None else objects
    return f"{head}<annotation><filename>{file_name}</filename>{stated}{objects}</annotation>"


def voc_object(name: str, *corners: object, difficult: int = 0) -> str:
    """Return one object with corners xmin, ymin, xmax, ymax."""
    parts = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{key}>{value}</{key}>" for key, value in parts)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """Write a VOC folder: `train` maps a name to the text of its xml; every name gets an image."""

    def make(train: Mapping[str, str], val: Mapping[str, str] | None = None, home: str = "") -> Path:
        root = tmp_path / home
        for split, files in (("train", train), ("val", val or {})):
            for stem, text in files.items():
                save_noise(root / "JPEGImages" / f"{stem}.jpg")
                (root / "Annotations").mkdir(exist_ok=True)
                (root / "Annotations" / f"{stem}.xml").write_text(text)
            (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in files))
        return tmp_path

    return make
