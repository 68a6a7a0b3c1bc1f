# SPDX-License-Identifier: Apache-2.0
"""The models that can be trained: the one place that says which task each is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pliant.train.options.fields import Options, option


@dataclass(frozen=True)
class ModelKind:
    """A model by its name.

    Attributes:
        task: the task (pliant.train.tasks) that opens its data, builds it and measures it.
        help: what it is, in a few words.
        defaults: options whose default is another for this model.
    """

    task: str
    help: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


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
    "roi_samples": 128,
    "ohem": 128,
    "class_agnostic": True,
    "train_proposals": 300,
    "proposals": 300,
}

# The sizes of the official code, for Pascal VOC.
_DEEPLAB = {"min_size": (360,), "max_size": 600}
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
    "faster-rcnn": ModelKind("detection", "Faster R-CNN over a feature pyramid"),
    "mask-rcnn": ModelKind("detection", "the same with a mask for each detection"),
    "faster-rcnn-dc5": ModelKind(
        "detection",
        "Faster R-CNN in the papers' form, without a pyramid and with conv5 at stride 16",
        {"anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0)},
    ),
    "mask-rcnn-dc5": ModelKind(
        "detection",
        "the same with a mask for each detection",
        {"anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0)},
    ),
    "rfcn": ModelKind("detection", "R-FCN, with position-sensitive RoI pooling", _RFCN),
    "class-aware-rpn": ModelKind("detection", "an RPN with a class for each anchor (v1 paper)", _V1),
    "deeplab": ModelKind("segmentation", "DeepLab semantic segmentation (v1 paper)", _DEEPLAB),
    "classifier": ModelKind("classification", "image classification by the backbone itself", _CLASSIFIER),
}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model."""

    TITLE: ClassVar[str] = "model"

    model: str = option(
        "faster-rcnn", "; ".join(f"{name}: {kind.help}" for name, kind in MODELS.items()), choices=tuple(MODELS)
    )
    start: str | None = option(
        None,
        "run folder, a converted checkpoint's for instance, whose weights the training starts from; those that do not "
        "fit, such as a classifier for other categories, start at random",
    )
