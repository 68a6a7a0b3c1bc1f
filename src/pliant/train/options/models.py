# SPDX-License-Identifier: Apache-2.0
"""`MODELS`: everything that says what models there are, in one table.

To add a model, add an entry here and its builder in pliant/train/tasks/builders.py. Options (the other files of this
folder) say which parts a model must have for them, and an entry says which parts its model has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pliant.train.options.fields import Options, option

Part = Literal[
    "detection",  # boxes: anchors, thresholds, the options of inference
    "segmentation",
    "classification",
    "resized",  # images are resized to a short side
    "rotated",  # training images may be turned by any angle
    "pyramid",  # a feature pyramid
    "dilated",  # conv5 at stride 16, dilated
    "single map",  # a detector on that conv5
    "regions",  # a second stage that pools regions
    "fc head",  # fully connected layers on each region
    "mined",  # the second stage can train on the hardest regions
    "masks",
]
Task = Literal["detection", "instances", "segmentation", "classification"]


@dataclass(frozen=True)
class ModelKind:
    """A model.

    Attributes:
        task: its task, a module of pliant/train/tasks, which opens its data and measures it.
        builder: the name of its builder in pliant/train/tasks/builders.py.
        help: what it is, in a few words.
        parts: what it has, which decides the options that it takes.
        defaults: options whose default is another for this model.
    """

    task: Task
    builder: str
    help: str
    parts: tuple[Part, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


_DETECTOR: tuple[Part, ...] = ("detection", "resized")
_PYRAMID: tuple[Part, ...] = (*_DETECTOR, "pyramid", "regions", "fc head")
_SINGLE_MAP: tuple[Part, ...] = (*_DETECTOR, "dilated", "single map")
_DC5: tuple[Part, ...] = (*_SINGLE_MAP, "regions", "fc head")
_DC5_ANCHORS = {"anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0)}
# The official v1 code, for COCO.
_V1 = {
    "reduction_channels": 1024,
    "anchor_sizes": (64.0, 128.0, 256.0, 512.0),
    "min_size": (600,),
    "max_size": 1000,
}
_RFCN = {
    **_V1,
    "reduction_lr_scale": 3.0,
    "roi_samples_per_bin": 4,
    "roi_samples": 128,
    "ohem": 128,
    "class_agnostic": True,
    "train_proposals": 300,
    "proposals": 300,
}
# The usual recipe of ImageNet, for 32 images a step; fine-tuned networks keep learning their statistics.
_CLASSIFIER = {
    "norm": "batch",
    "frozen_stages": 0,
    "batch_size": 32,
    "epochs": 90,
    "lr": 0.0125,
    "milestones": (0.333, 0.667, 0.889),
}

MODELS: dict[str, ModelKind] = {
    "faster-rcnn": ModelKind(
        "detection", "build_faster_rcnn", "Faster R-CNN over a feature pyramid", (*_PYRAMID, "mined")
    ),
    "mask-rcnn": ModelKind(
        "instances", "build_faster_rcnn", "the same with a mask for each detection", (*_PYRAMID, "masks")
    ),
    "faster-rcnn-dc5": ModelKind(
        "detection",
        "build_faster_rcnn_dc5",
        "Faster R-CNN in the papers' form, without a pyramid and with conv5 at stride 16",
        (*_DC5, "mined"),
        _DC5_ANCHORS,
    ),
    "mask-rcnn-dc5": ModelKind(
        "instances", "build_faster_rcnn_dc5", "the same with a mask for each detection", (*_DC5, "masks"), _DC5_ANCHORS
    ),
    "rfcn": ModelKind(
        "detection",
        "build_rfcn",
        "R-FCN, with position-sensitive RoI pooling",
        (*_SINGLE_MAP, "regions", "mined"),
        _RFCN,
    ),
    "class-aware-rpn": ModelKind(
        "detection", "build_class_aware_rpn", "an RPN with a class for each anchor (v1 paper)", _SINGLE_MAP, _V1
    ),
    "deeplab": ModelKind(
        "segmentation",
        "build_deeplab",
        "DeepLab semantic segmentation (v1 paper)",
        ("segmentation", "resized", "rotated", "dilated"),
        {"min_size": (360,), "max_size": 600},  # of the official code, for Pascal VOC
    ),
    "classifier": ModelKind(
        "classification",
        "build_classifier",
        "image classification by the backbone itself",
        ("classification", "rotated"),
        _CLASSIFIER,
    ),
}

if TYPE_CHECKING:
    ModelName = str
else:
    ModelName = Literal[tuple(MODELS)]


def applies(only: Iterable[str], model: str) -> bool:
    """Return whether `model` has all the parts `only`.

    Example:
        >>> applies(("detection", "pyramid"), "mask-rcnn"), applies(("pyramid",), "rfcn")
        (True, False)
    """
    return set(only) <= set(MODELS[model].parts)


def models_with(only: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the models that have all the parts `only`.

    Example:
        >>> models_with(("masks",))
        ('mask-rcnn', 'mask-rcnn-dc5')
    """
    return tuple(name for name in MODELS if applies(only, name))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model."""

    TITLE: ClassVar[str] = "model"

    model: ModelName = option("faster-rcnn", "; ".join(f"{name}: {kind.help}" for name, kind in MODELS.items()))
    start: str | None = option(
        None,
        "run folder, a converted checkpoint's for instance, whose weights the training starts from; those that do not "
        "fit, such as a classifier for other categories, start at random",
    )
