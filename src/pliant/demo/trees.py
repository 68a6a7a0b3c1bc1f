# SPDX-License-Identifier: Apache-2.0
"""The two photographs as data sets: overlapping tiles of one to train on, the other whole to test on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pliant.data import DetectionDataset, open_dataset
from pliant.evaluation import tiles

TILE = 640
OVERLAP = 160
# A tree at the border of a tile is kept if so much of its box is inside.
MIN_VISIBLE = 0.4


def write_tiles(photos: Path, out: Path) -> Path:
    """Write the training photograph as overlapping tiles, in COCO layout, split `train`; return the folder.

    Only the training photograph is cut: no tile of it can meet the test.
    """
    dataset = open_dataset(photos, "train")
    image, target = dataset[0]
    folder = out / "train"
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, window in enumerate(tiles(image.shape[1], image.shape[2], TILE, OVERLAP), start=1):
        x1, y1, x2, y2 = window
        name = f"tile_{number:03d}.png"
        Image.fromarray(image[:, y1:y2, x1:x2].permute(1, 2, 0).numpy()).save(folder / name)
        images.append({"id": number, "file_name": name, "width": x2 - x1, "height": y2 - y1})
        for box in boxes_within(target["boxes"], window).tolist():
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": [x, y, width, height], "area": width * height})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Tree"}]}
    (out / "annotations").mkdir(exist_ok=True)
    (out / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")
    return out


def boxes_within(boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Return the boxes (T, 4) of which enough lies in the window (x1, y1, x2, y2), cut and moved to its corner."""
    x1, y1, x2, y2 = window
    shifted = boxes - boxes.new_tensor([x1, y1, x1, y1])
    limits = boxes.new_tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    cut = torch.minimum(shifted.clamp(min=0), limits)
    visible = _area(cut) / _area(boxes)
    return cut[visible >= MIN_VISIBLE]


def _area(boxes: Tensor) -> Tensor:
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return size[:, 0] * size[:, 1]


def test_site(photos: Path) -> DetectionDataset:
    """Return the other site's photograph, whole, with its boxes."""
    return open_dataset(photos, "test")
