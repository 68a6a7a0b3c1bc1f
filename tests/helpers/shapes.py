# SPDX-License-Identifier: Apache-2.0
"""A tiny detection data set in COCO layout: bright squares and dark bars on grey, with boxes and masks."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

HEIGHT, WIDTH = 64, 80
CATEGORIES = [{"id": 3, "name": "square"}, {"id": 7, "name": "bar"}]  # ids with gaps, as COCO's


def write_shapes(root: Path, counts: dict[str, int]) -> Path:
    """Write splits with so many images each and return the folder; every image holds one square and one bar."""
    generator = torch.Generator().manual_seed(5)
    for split, count in counts.items():
        _write_split(root, split, count, generator)
    return root


def _write_split(root: Path, split: str, count: int, generator: torch.Generator) -> None:
    folder = root / split
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        picture = torch.randint(90, 130, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
        for category, width, height, value in ((3, 20, 20, 250), (7, 12, 30, 5)):
            left = int(torch.randint(0, WIDTH // 2 - width, (), generator=generator)) + (category == 7) * WIDTH // 2
            top = int(torch.randint(0, HEIGHT - height, (), generator=generator))
            picture[:, top : top + height, left : left + width] = value
            box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            right, bottom = left + width, top + height
            box["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **box})
        name = f"{number:03d}.png"
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
