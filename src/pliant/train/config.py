# SPDX-License-Identifier: Apache-2.0
"""`TrainConfig`: everything that decides a training run, checked when it is made."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from pliant._check import PliantError, fail, suggest

MODELS = ("faster-rcnn",)


def _option(default: Any, help: str, *, choices: tuple[str, ...] = (), minimum: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; `config.json` in the run folder holds them.

    Each field's meaning and unit are in its metadata, which `pliant train --help` prints. Lengths are in pixels of the
    resized image, times in optimizer steps. A value of the wrong type or out of range is a `PliantError`.

    Example:
        >>> TrainConfig(data="shapes", epochs=3).lr
        0.0025
    """

    data: str = field(metadata={"help": "folder of the data set: COCO json or Pascal VOC layout, recognised"})
    split: str = _option("train", "split to train on")
    val_split: str | None = _option("val", "split to evaluate on during training; 'none' evaluates never")

    model: str = _option("faster-rcnn", "detector", choices=MODELS)
    backbone: str = _option("resnet50", "resnet18/34/50/101, resnext50/101, mobilenet_v2/v3, or timm:NAME")
    deform: str | None = _option(None, "convolutions made deformable: c3-c5, c5, last3, or a regular expression")
    modulated: bool = _option(True, "DCNv2's modulation; without it the layers are DCNv1's")
    offset_groups: int = _option(1, "groups of channels with offsets of their own", minimum=1)
    mask_scale: float = _option(2.0, "factor of the modulation's sigmoid; 2 starts as the plain network does")
    weights: str | None = _option(None, "checkpoint of the backbone, or 'default' to download the library's own")
    norm: str = _option(
        "auto", "batch norm: frozen, batch, or auto (frozen with --weights)", choices=("auto", "frozen", "batch")
    )
    frozen_stages: int | None = _option(None, "first stages not trained; default 2 with --weights, else 0", minimum=0)
    strides: tuple[int, ...] = _option((4, 8, 16, 32), "strides of the pyramid's maps, in pixels", minimum=1)
    fpn_channels: int = _option(256, "channels of the pyramid's maps", minimum=1)
    head_channels: int = _option(1024, "width of the box head's two layers", minimum=1)
    roi_samples: int = _option(512, "regions per image that the box head is trained on", minimum=1)
    anchor_sizes: tuple[float, ...] | None = _option(
        None, "anchor side in pixels for each map and one more; default 8 times the stride", minimum=1
    )
    anchor_scales: tuple[float, ...] = _option((1.0,), "factors; each map has an anchor of each", minimum=0.01)
    anchor_ratios: tuple[float, ...] = _option((0.5, 1.0, 2.0), "heights over widths of the anchors", minimum=0.01)
    min_size: tuple[int, ...] = _option(
        (800,),
        "short side of the resized image in pixels; several: one at random in training, the last in tests",
        minimum=32,
    )
    max_size: int = _option(1333, "limit of the long side of the resized image, in pixels", minimum=32)
    proposals: int = _option(1000, "regions per image that the box head looks at in tests", minimum=1)
    max_detections: int = _option(100, "most detections per image", minimum=1)

    crop: int | None = _option(None, "train on random square crops of so many pixels of the original image", minimum=32)
    flip: float = _option(0.5, "chance of a horizontal flip, 0..1", minimum=0)
    vertical_flip: float = _option(0.0, "chance of a vertical flip, 0..1", minimum=0)
    rotate90: bool = _option(False, "rotate by a random multiple of 90 degrees (aerial and microscope images)")
    photometric: bool = _option(False, "vary brightness, contrast, saturation and hue at random")

    epochs: int = _option(12, "passes over the training split", minimum=1)
    steps: int | None = _option(None, "stop after so many optimizer steps instead of --epochs", minimum=1)
    batch_size: int = _option(2, "images per step", minimum=1)
    optimizer: str = _option("sgd", "sgd with momentum, or adamw", choices=("sgd", "adamw"))
    lr: float = _option(0.0025, "peak learning rate (0.02 for 16 images, scaled to the batch of 2)")
    momentum: float = _option(0.9, "momentum of sgd", minimum=0)
    weight_decay: float = _option(1e-4, "weight decay", minimum=0)
    offset_lr_scale: float = _option(
        0.1, "factor on the learning rate of the offset branches (v2 paper: 0.1)", minimum=0
    )
    schedule: str = _option(
        "multistep", "multistep (the papers') or onecycle learning rate", choices=("multistep", "onecycle")
    )
    warmup_steps: int = _option(500, "steps of linear warm-up; at most a tenth of the run", minimum=0)
    milestones: tuple[float, ...] = _option(
        (0.667, 0.917), "multistep: divide the learning rate by 10 at these shares of the run", minimum=0
    )
    grad_clip: float = _option(35.0, "largest norm of the gradient; 0 does not clip", minimum=0)
    seed: int = _option(0, "seed of weights, order of images and augmentation", minimum=0)

    device: str = _option("auto", "auto takes an accelerator where there is one", choices=("auto", "cpu"))
    precision: str = _option("no", "mixed precision: no, bf16, fp16", choices=("no", "bf16", "fp16"))
    workers: int = _option(0, "processes that read images; 0 reads in the training process", minimum=0)
    eval_every: int = _option(1, "evaluate each so many epochs, and at the end", minimum=1)
    checkpoint_every: int = _option(500, "save a checkpoint each so many steps, and after each evaluation", minimum=1)
    log_every: int = _option(10, "write the losses to metrics.jsonl each so many steps", minimum=1)
    tensorboard: bool = _option(False, "also write TensorBoard events (needs tensorboard)")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for spec in dataclasses.fields(self):
            value = _typed(spec.name, getattr(self, spec.name), hints[spec.name])
            _check_range(spec, value)
            object.__setattr__(self, spec.name, value)
        if self.lr <= 0:
            fail("lr", "must be positive", self.lr, "use e.g. 0.0025", kind=PliantError)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make a config from a mapping; an unknown key is a `PliantError` that gives the nearest name."""
        known = [spec.name for spec in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                fix = f"`pliant train --help` lists them.{suggest(str(key), known)}"
                fail("config", "must have known keys", repr(key), fix, kind=PliantError)
        if "data" not in values:
            fail("data", "must name the folder of the data set", "nothing", "add --data DIR", kind=PliantError)
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> TrainConfig:
        """Read a config from a JSON file."""
        return cls.from_dict(cls.read(path))

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Read the settings in a JSON file, which need not be all of them."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise PliantError(
                f"config: must be a JSON file; got {path} ({error}); see `pliant train --help`"
            ) from error
        if not isinstance(values, dict):
            fail("config", "must be a JSON object", type(values).__name__, 'write {"data": ...}', kind=PliantError)
        return values

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return dataclasses.asdict(self)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`: an integer serves as a float and a list as a tuple, nothing else is bent."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not type(None))
        return None if value is None else _typed(name, value, inner)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            fail(name, "must be a list", repr(value), "write e.g. [8, 16]", kind=PliantError)
        return tuple(_typed(name, item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        kind = {int: "an integer", float: "a number", str: "text", bool: "true or false"}[hint]
        fail(name, f"must be {kind}", repr(value), "see `pliant train --help`", kind=PliantError)
    return value


def _check_range(spec: dataclasses.Field[Any], value: Any) -> None:
    choices, minimum = spec.metadata.get("choices"), spec.metadata.get("minimum")
    if choices and value not in choices:
        fix = f"choose one of {', '.join(choices)}.{suggest(str(value), choices)}"
        fail(spec.name, "must be one of its choices", repr(value), fix, kind=PliantError)
    values = value if isinstance(value, tuple) else (value,)
    # `not >=`, so that NaN is refused too.
    if minimum is not None and any(v is not None and not v >= minimum for v in values):
        fail(spec.name, f"must be at least {minimum:g}", value, f"use {minimum:g} or more", kind=PliantError)
