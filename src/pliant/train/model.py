# SPDX-License-Identifier: Apache-2.0
"""The detector of a config, and the detector of a finished run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN

from pliant._check import PliantError, fail
from pliant.data import Category
from pliant.detection import faster_rcnn

from .checkpoint import load_weights, write_atomically
from .config import TrainConfig

CONFIG_FILE = "config.json"
CATEGORIES_FILE = "categories.json"
WEIGHTS_FILE = "weights.safetensors"


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the config with what follows from `weights` written out: a run is rebuilt without that file."""
    given = config.weights is not None
    norm = config.norm if config.norm != "auto" else ("frozen" if given else "batch")
    frozen = config.frozen_stages if config.frozen_stages is not None else (2 if given else 0)
    return dataclasses.replace(config, norm=norm, frozen_stages=frozen)


def build_model(config: TrainConfig, categories: int, *, pretrained: bool = True) -> FasterRCNN:
    """Build the detector of `config` for so many categories.

    `pretrained=False` leaves `config.weights` unread, for weights that come from a run folder.
    """
    config = resolve(config)
    try:
        return _faster_rcnn(config, categories + 1, config.weights if pretrained else None)
    except PliantError:
        raise
    except ValueError as error:
        # An argument checked by the layers, e.g. offset groups that do not divide the channels.
        raise PliantError(str(error)) from error


def _faster_rcnn(config: TrainConfig, num_classes: int, weights: str | None) -> FasterRCNN:
    return faster_rcnn(
        num_classes,
        config.backbone,
        deform=config.deform,
        modulated=config.modulated,
        offset_groups=config.offset_groups,
        mask_scale=config.mask_scale,
        weights=weights,
        norm=config.norm,
        frozen_stages=config.frozen_stages,
        strides=config.strides,
        fpn_channels=config.fpn_channels,
        head_channels=config.head_channels,
        roi_samples=config.roi_samples,
        anchor_sizes=config.anchor_sizes,
        anchor_scales=config.anchor_scales,
        anchor_ratios=config.anchor_ratios,
        min_size=config.min_size,
        max_size=config.max_size,
        proposals=config.proposals,
        max_detections=config.max_detections,
    )


def pick_device(name: str) -> torch.device:
    """Return the CPU for `cpu`, and for `auto` the accelerator where there is one."""
    if name == "auto" and torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def save_categories(run: Path, categories: Sequence[Category]) -> None:
    """Write the categories of labels 1..C into the run folder."""
    text = json.dumps([dataclasses.asdict(category) for category in categories], indent=1)
    write_atomically(run / CATEGORIES_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load_categories(run: Path) -> tuple[Category, ...]:
    """Read the categories of a run folder."""
    path = run / CATEGORIES_FILE
    try:
        return tuple(
            Category(int(item["id"]), str(item["name"])) for item in json.loads(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PliantError(f"run: must hold {CATEGORIES_FILE}; got {run} ({error}); train first") from error


def load_config(run: Path, argument: str) -> TrainConfig:
    """Read the settings of a run folder that was given as `argument`."""
    if not (run / CONFIG_FILE).is_file():
        rule = f"must be a run folder with {CONFIG_FILE}"
        fail(argument, rule, str(run), "give the --out of a training", kind=PliantError)
    return TrainConfig.load(run / CONFIG_FILE)


def load_run(run: Path) -> tuple[FasterRCNN, tuple[Category, ...], TrainConfig]:
    """Return the trained detector of a run folder (in evaluation mode, on the CPU), its categories and its config.

    Raises:
        PliantError: not a run folder, or one whose weights were not written yet.
    """
    config = load_config(run, "run")
    categories = load_categories(run)
    model = build_model(config, len(categories), pretrained=False)
    load_weights(run / WEIGHTS_FILE, model)
    return model.eval(), categories, config
