# SPDX-License-Identifier: Apache-2.0
"""What a model of given settings asks for, bounded before it is spent: settings come with runs of strangers.

Each option has a largest value of its own, but several of them together can still ask for more memory than machines
have. What is estimated here is the largest array of each kind, in float32, for one image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pliant._check import PliantError, counted, fail
from pliant.train.config import ONLY, TrainConfig
from pliant.train.options import applies

MOST_BYTES = 4 * 2**30
MOST_WEIGHTS = MOST_BYTES
_NUMBER = 4  # bytes
_BIN_CELLS = 7 * 7
_MASK_CELLS = 28 * 28
_ANCHOR = 64  # bytes: the anchor, its delta, the box that they make, its score and its place in the order
_BOX = 16  # bytes
_SINGLE_MAP_STRIDE = 16
# The settings that decide how many weights a model has.
_WIDTHS = ("fpn_channels", "head_channels", "mask_channels", "reduction_channels", "rpn_channels", "offset_groups")


@dataclass(frozen=True)
class Demand:
    """What is large, in bytes, and the settings that make it so."""

    what: str
    size: int
    settings: tuple[str, ...]


def refuse_large(config: TrainConfig, categories: int) -> None:
    """Raise a `PliantError` if the arrays of one image are larger than `MOST_BYTES`."""
    for demand in _demands(config, categories):
        if demand.size > MOST_BYTES:
            _refuse(demand, config, categories)


class BoundedWeights(TorchFunctionMode):
    """While this is entered, weights that are made may have `MOST_WEIGHTS` together; beyond that is a `PliantError`.

    Memory of `torch.empty` is not taken before it is written, so that the weight which is one too many costs nothing.
    """

    def __init__(self, config: TrainConfig, categories: int) -> None:
        super().__init__()
        self.config, self.categories, self._made = config, categories, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "allocate" not in str(error):
                raise
            raise PliantError(f"config: must make a model for which there is memory; {error}; use less") from error
        if func is torch.empty:
            self._made += result.numel() * result.element_size()
            if self._made > MOST_WEIGHTS:
                _refuse(Demand("weights", self._made, _WIDTHS), self.config, self.categories, MOST_WEIGHTS)
        return result


def _demands(config: TrainConfig, categories: int) -> Iterator[Demand]:
    short, long = sorted((max(config.test_scales or config.min_size), config.test_max_size or config.max_size))
    area = short * long
    sides = ("min_size", "max_size", "test_scales", "test_max_size")
    if applies(("segmentation",), config.model):
        yield Demand("scores", area * categories * _NUMBER, sides)
    if not applies(("detection",), config.model):
        return
    pyramid = applies(("pyramid",), config.model)
    width = "fpn_channels" if pyramid else "reduction_channels"
    strides = config.strides if pyramid else (_SINGLE_MAP_STRIDE,)
    cells = sum(area // stride**2 for stride in strides)
    largest = area // min(strides) ** 2 * getattr(config, width)
    yield Demand("maps", largest * _NUMBER, (*sides, "strides", width))
    anchors = len(config.anchor_scales) * len(config.anchor_ratios)
    anchors *= 1 if pyramid else len(config.anchor_sizes or ())
    names = ("anchor_sizes", "anchor_scales", "anchor_ratios")
    yield Demand("anchors", cells * anchors * _ANCHOR, (*sides, "strides", *names))
    if applies(("regions",), config.model):
        yield from _of_regions(config, categories, width)


def _of_regions(config: TrainConfig, categories: int, width: str) -> Iterator[Demand]:
    every = ("roi_samples", "ohem", "proposals", "train_proposals")
    names = tuple(name for name in every if applies(ONLY[name], config.model))
    regions = max(getattr(config, name) or 0 for name in names)
    channels = getattr(config, width)
    if applies(("fc head",), config.model):
        yield Demand("pooled regions", regions * channels * _BIN_CELLS * _NUMBER, (*names, width))
        yield Demand("box head", regions * config.head_channels * _NUMBER, (*names, "head_channels"))
    yield Demand("boxes", regions * (categories + 1) * _BOX, names)
    if applies(("masks",), config.model):
        found = max(config.max_detections, config.counted_detections or 0)
        size = found * max(config.mask_channels, categories + 1) * _MASK_CELLS * _NUMBER
        yield Demand("masks", size, ("max_detections", "counted_detections", "mask_channels"))


def _refuse(demand: Demand, config: TrainConfig, categories: int, most: int = MOST_BYTES) -> None:
    """Name the settings that the model has, and the categories."""
    values = [
        f"{name} {getattr(config, name)}"
        for name in demand.settings
        if applies(ONLY[name], config.model) and getattr(config, name) is not None
    ]
    got = f"{demand.size / 2**30:.1f} GiB with {', '.join(values)} and {counted(categories, 'category')}"
    fail("config", f"must ask for at most {most / 2**30:g} GiB of {demand.what}", got, "lower some of these")
