# SPDX-License-Identifier: Apache-2.0
"""The two photographs as one data set: overlapping tiles of one site to train on, the other site whole to test on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_area

from pliant._writing import write_text, write_whole
from pliant.data import open_detection
from pliant.inference import tiles
from pliant.inference.tiling import Window

TILE = 640
OVERLAP = 160
# A tree at the border of a tile is kept if so much of its box is inside.
MIN_VISIBLE = 0.4
# Every photograph's channels are brought to this mean and spread (of 0..1), which are about ImageNet's.
MEAN, SPREAD = 0.45, 0.22


def write_trees(photos: Path, out: Path) -> Path:
    """Write both photographs in COCO layout, splits `train` (tiles) and `test` (whole), and return the folder.

    No tile of the test photograph is trained on, and none of the training photograph is tested on.
    """
    image, target = open_detection(photos, "train")[0]
    _write_split(out, "train", image, target["boxes"], tiles(image.shape[1], image.shape[2], TILE, OVERLAP))
    image, target = open_detection(photos, "test")[0]
    _write_split(out, "test", image, target["boxes"], [(0, 0, image.shape[2], image.shape[1])])
    return out


def _write_split(out: Path, split: str, photo: Tensor, boxes: Tensor, windows: list[Window]) -> None:
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    even = even_colours(photo)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, window in enumerate(windows, start=1):
        x1, y1, x2, y2 = window
        name = f"{split}_{number:03d}.png"
        tile = Image.fromarray(even[:, y1:y2, x1:x2].permute(1, 2, 0).numpy())
        write_whole(folder / name, tile.save)
        images.append({"id": number, "file_name": name, "width": x2 - x1, "height": y2 - y1})
        for box in boxes_within(boxes, window).tolist():
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": [x, y, width, height], "area": width * height})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Tree"}]}
    (out / "annotations").mkdir(exist_ok=True)
    write_text(out / "annotations" / f"instances_{split}.json", json.dumps(content))


def even_colours(photo: Tensor) -> Tensor:
    """Return a uint8 photograph (3, H, W) with every channel brought to the mean `MEAN` and the spread `SPREAD`.

    The two sites were photographed in different light: dark green trees on one, pale ones on the other. No label and
    no other photograph is used, so a new photograph can be treated alike.
    """
    pixels = photo.float()
    mean, spread = pixels.mean((1, 2), keepdim=True), pixels.std((1, 2), keepdim=True)
    even = (pixels - mean) / spread.clamp(min=1.0) * (255 * SPREAD) + 255 * MEAN
    return even.round().clamp(0, 255).to(torch.uint8)


def boxes_within(boxes: Tensor, window: Window) -> Tensor:
    """Return the boxes (T, 4) of which enough lies in the window (x1, y1, x2, y2), cut and moved to its corner."""
    x1, y1, x2, y2 = window
    shifted = boxes - boxes.new_tensor([x1, y1, x1, y1])
    limits = boxes.new_tensor([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    cut = torch.minimum(shifted.clamp(min=0), limits)
    return cut[box_area(cut) / box_area(boxes) >= MIN_VISIBLE]
