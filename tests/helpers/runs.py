# SPDX-License-Identifier: Apache-2.0
"""Run folders of models that nobody trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pliant.data import Category
from pliant.nn import DeformConv2d
from pliant.train import TrainConfig
from pliant.train.model import build_model, save_run

CATEGORIES = (Category(1, "oak"), Category(2, "elm & ash"))
SMALL = {"data": "none", "backbone": "resnet18", "deform": "c4", "device": "cpu", "min_size": [64], "max_size": 128}


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
