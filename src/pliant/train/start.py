# SPDX-License-Identifier: Apache-2.0
"""`--start RUN`: a model begins with another run's weights, those of its categories by their names."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pliant._check import counted, fail
from pliant.data import Category
from pliant.train.checkpoint import read_weights
from pliant.train.config import TrainConfig
from pliant.train.model import WEIGHTS_FILE, build_model, load_categories

# Its rows are the classes of one anchor after another; those of all other layers belong to one class after another.
_BY_ANCHOR = re.compile(r"rpn\.head\.cls_logits\.(weight|bias)")


def start_from(model: nn.Module, config: TrainConfig, categories: Sequence[Category]) -> None:
    """Give `model` the weights of the run folder `config.start`, and warn of what it does not have.

    Rows that belong to a category are taken from the category of the same name. What is new starts at random.

    Args:
        model: of `config` and `categories`; changed in place.
        config: names the run.
        categories: in the order of the model's labels.

    Raises:
        PliantError: not a run folder, or less than half of the tensors fit.
    """
    run = Path(config.start or "")
    given, before = read_weights(run / WEIGHTS_FILE, "start"), load_categories(run)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    per_class = _rows_per_class(config, len(categories))
    old = {category.name: label for label, category in enumerate(before)}
    places = [old.get(category.name) for category in categories]
    fitting: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name in per_class:
            moved = _moved(name, tensor, given.get(name), per_class[name], places, len(before))
            fitting |= {} if moved is None else {name: moved}
        elif name in given and given[name].shape == tensor.shape:
            fitting[name] = given[name]
    others = [name for name in own if name not in fitting]
    if 2 * len(fitting) < len(own):
        whole = counted(len(own), "tensor")
        rule = f"must hold a model much like this one; {len(others)} of its {whole} are absent or of another shape"
        fail("start", rule, f"{run}, without {others[0]}", "give its --model and --backbone too")
    model.load_state_dict(fitting, strict=False)
    new = [category.name for category, place in zip(categories, places, strict=True) if place is None]
    _warn(run, "tensor", others)
    _warn(run, "category", new)


def _rows_per_class(config: TrainConfig, classes: int) -> dict[str, int]:
    """Return for each tensor that depends on the categories how many rows of it belong to one of them."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = dataclasses.replace(config, start=None)
        one, two = (build_model(plain, count, pretrained=False).state_dict() for count in (classes, classes + 1))
    return {name: len(two[name]) - len(one[name]) for name in one if one[name].shape != two[name].shape}


def _moved(
    name: str, own: Tensor, given: Tensor | None, rows: int, places: Sequence[int | None], before: int
) -> Tensor | None:
    """Return `own` with the rows of the categories that the other run had, at `places` among its `before`."""
    background = len(own) - rows * len(places)  # rows of no category, which come first
    if given is None or given.shape[1:] != own.shape[1:] or len(given) != background + rows * before:
        return None
    classes = own.shape[0] // rows - len(places)  # that are no category: the background, or none
    result, source = (_by_class(name, tensor.clone(), rows) for tensor in (own, given))
    result[:classes] = source[:classes]
    for label, place in enumerate(places):
        if place is not None:
            result[classes + label] = source[classes + place]
    return _by_class_back(name, result).reshape(own.shape)


def _by_class(name: str, tensor: Tensor, rows: int) -> Tensor:
    """A class's rows under one index: (classes, rows, ...)."""
    if _BY_ANCHOR.fullmatch(name):
        tensor = tensor.reshape(rows, -1, *tensor.shape[1:])
        return tensor.transpose(0, 1).contiguous()
    return tensor.reshape(-1, rows, *tensor.shape[1:])


def _by_class_back(name: str, tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous() if _BY_ANCHOR.fullmatch(name) else tensor


def _warn(run: Path, noun: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        warnings.warn(f"start: {counted(len(names), noun)} not in {run}, which start at random: {shown}", stacklevel=3)
