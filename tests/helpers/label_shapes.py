# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets for semantic segmentation and classification: bright squares and dark bars on grey."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

HEIGHT, WIDTH = 48, 64
CLASSES = ("background", "square", "bar")


def write_label_shapes(root: Path, counts: dict[str, int]) -> Path:
    """Write `images/SPLIT` and `labels/SPLIT`, with a square and a bar in every image; border pixels are 255."""
    generator = torch.Generator().manual_seed(6)
    for split, count in counts.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for number in range(1, count + 1):
            picture, labels = _scene(generator)
            _save(picture, root / "images" / split / f"{number:03d}.png")
            Image.fromarray(labels.numpy()).save(root / "labels" / split / f"{number:03d}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return root


def _scene(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    picture = torch.randint(90, 130, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    for label, width, height, value in ((1, 20, 20, 250), (2, 12, 30, 5)):
        left = int(torch.randint(0, WIDTH // 2 - width, (), generator=generator)) + (label == 2) * WIDTH // 2
        top = int(torch.randint(0, HEIGHT - height, (), generator=generator))
        picture[:, top : top + height, left : left + width] = value
        labels[top : top + height, left : left + width] = label
    labels[:, :2] = 255
    return picture, labels


def write_class_shapes(root: Path, counts: dict[str, int]) -> Path:
    """Write `SPLIT/CLASS/NUMBER.png` with so many images of each class, of sizes that differ."""
    generator = torch.Generator().manual_seed(7)
    for split, count in counts.items():
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(1, count + 1):
                picture = torch.randint(90, 130, (3, HEIGHT, WIDTH - 4 * number), generator=generator).to(torch.uint8)
                if label:
                    width, height, value = ((20, 20, 250), (8, 40, 5))[label - 1]
                    picture[:, 4 : 4 + height, 16 : 16 + width] = value
                _save(picture, root / split / name / f"{number}.png")
    return root


def _save(picture: Tensor, path: Path) -> None:
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
