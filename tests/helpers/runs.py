# SPDX-License-Identifier: Apache-2.0
"""Run folders of models that nobody trained, and a photograph for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pliant.data import Category
from pliant.nn import DeformConv2d
from pliant.train import TrainConfig
from pliant.train.model import build_model, save_run

CATEGORIES = (Category(1, "oak"), Category(2, "elm & ash"))
SMALL = {"data": "none", "backbone": "resnet18", "deform": "c4", "device": "cpu", "min_size": [64], "max_size": 128}
DETECTOR = {"strides": [8, 16], "fpn_channels": 16, "head_channels": 32, "anchor_sizes": [16.0, 32.0, 64.0]}


def write_run(folder: Path, **settings: Any) -> Path:
    """Write the run folder of a small model, with offsets of a pixel's spread."""
    torch.manual_seed(0)
    config = TrainConfig.from_dict({**SMALL, **settings})
    model = build_model(config, len(CATEGORIES))
    for layer in model.modules():
        if isinstance(layer, DeformConv2d):
            layer.conv_offset.bias.data.normal_()
    folder.mkdir(parents=True, exist_ok=True)
    save_run(folder, model.eval(), CATEGORIES, config)
    return folder


def options_of(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words of the command line, without those that are None."""
    return [
        word
        for name, value in settings.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value]))
    ]


def write_photo(path: Path) -> Path:
    """Write an image of 60 x 80 pixels without any order."""
    pixels = torch.randint(0, 255, (60, 80, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return path
