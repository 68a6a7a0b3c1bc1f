# SPDX-License-Identifier: Apache-2.0
"""The model of a config, and the model of a finished run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pliant._check import PliantError, fail
from pliant._files import is_id, is_text, load_json
from pliant.data import Category
from pliant.train.checkpoint import load_weights, save_weights
from pliant.train.config import TrainConfig
from pliant.train.files import write_json
from pliant.train.size import BoundedWeights, refuse_large
from pliant.train.tasks import builder_of

CONFIG_FILE = "config.json"
CATEGORIES_FILE = "categories.json"
WEIGHTS_FILE = "weights.safetensors"


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the config with what follows from `weights` written out: a run is rebuilt without that file."""
    given = config.weights is not None or config.start is not None
    norm = config.norm if config.norm != "auto" else ("frozen" if given else "batch")
    frozen = config.frozen_stages if config.frozen_stages is not None else (2 if given else 0)
    return dataclasses.replace(config, norm=norm, frozen_stages=frozen)


def build_model(config: TrainConfig, categories: int, *, pretrained: bool = True) -> nn.Module:
    """Build the model of `config` for so many categories.

    `pretrained=False` leaves `config.weights` unread, for weights that come from a run folder.
    """
    config = resolve(config)
    refuse_large(config, categories)
    try:
        with warnings.catch_warnings(), BoundedWeights(config, categories):
            if not pretrained:
                warnings.filterwarnings("ignore", message="mask_scale=")  # those weights were trained with it
            model = builder_of(config)(config, categories, config.weights if pretrained else None)
    except PliantError:
        raise
    except ValueError as error:
        # An argument checked by the layers, e.g. offset groups that do not divide the channels.
        raise PliantError(str(error)) from error
    return model


def pick_device(name: str) -> torch.device:
    """Return the device called `name` as PyTorch names it; `auto` is the accelerator where there is one, else the CPU.

    Raises:
        PliantError: no such device here.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what PyTorch raises for an absent device
        reason = str(error).splitlines()[0]
        raise PliantError(f"device: must be one that PyTorch has here; got {name!r} ({reason}); use auto") from error
    return device


def save_categories(run: Path, categories: Sequence[Category]) -> None:
    """Write the categories of labels 1..C into the run folder."""
    write_json(run / CATEGORIES_FILE, [dataclasses.asdict(category) for category in categories])


def load_categories(run: Path) -> tuple[Category, ...]:
    """Read the categories of a run folder."""
    path = run / CATEGORIES_FILE
    entries = load_json(path)
    entries = entries if isinstance(entries, list) else [None]
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")) or not is_text(entry.get("name")):
            fail(f"{path}[{i}]", "must be a category with an id and a name", f"{entry!r:.60}", "copy the run again")
    return tuple(Category(entry["id"], entry["name"]) for entry in entries)


def load_config(run: Path, argument: str) -> TrainConfig:
    """Read the settings of a run folder that was given as `argument`."""
    if not (run / CONFIG_FILE).is_file():
        rule = f"must be a run folder with {CONFIG_FILE}"
        fail(argument, rule, str(run), "give the --out of a training")
    return TrainConfig.load(run / CONFIG_FILE)


def save_run(run: Path, model: nn.Module, categories: Sequence[Category], config: TrainConfig) -> None:
    """Write what `load_run` reads: weights, categories and, last, the config."""
    run.mkdir(parents=True, exist_ok=True)
    save_weights(run / WEIGHTS_FILE, model)
    save_categories(run, categories)
    write_json(run / CONFIG_FILE, config.as_dict())


def load_run(
    run: Path, changed: Mapping[str, Any] | None = None
) -> tuple[nn.Module, tuple[Category, ...], TrainConfig]:
    """Return the trained model of a run folder (in evaluation mode, on the CPU), its categories and its config.

    Args:
        run: the folder.
        changed: settings that differ from the run's, those of test time for instance.

    Raises:
        PliantError: not a run folder, or one whose weights were not written yet, or a setting that is refused.
    """
    config = load_config(run, "run")
    config = TrainConfig.from_dict({**config.as_dict(), **(changed or {})})
    categories = load_categories(run)
    model = build_model(dataclasses.replace(config, mimic=False), len(categories), pretrained=False)
    load_weights(run / WEIGHTS_FILE, model)
    return model.eval(), categories, config
