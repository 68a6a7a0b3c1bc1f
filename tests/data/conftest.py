# SPDX-License-Identifier: Apache-2.0
"""Small data sets on disk, in both layouts with boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.data_sets import HEIGHT, WIDTH, Make, save_noise


@pytest.fixture
def make_coco(tmp_path: Path) -> Make:
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


@pytest.fixture
def make_voc(tmp_path: Path) -> Make:
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
