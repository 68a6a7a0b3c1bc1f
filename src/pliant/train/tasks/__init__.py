# SPDX-License-Identifier: Apache-2.0
"""The tasks: what training, evaluation and prediction do differently for detection, segmentation, classification.

`task_of(config)` gives the task of `config.model` and `builder_of(config)` its builder; the table `MODELS` in
pliant/train/options/models.py names both. A task is an object of `Task` (base.py), which run.py, engine.py, model.py
and the command line talk to, and nothing else. Its metric is put together from parts, one for each image: with several
processes each one makes the parts of its own images, and the main process scores them all (`engine.evaluate`).

Every model follows torchvision's detection convention, whatever its task: in training form `model(images, targets)` is
a dictionary of losses, images being a list of (3, H, W) floats in 0..1 and targets a list of dictionaries of tensors;
in evaluation form `model(images)` is a list of dictionaries of tensors, one for each image. Normalising, resizing and
batching happen inside.

| task | target | output | metric |
|---|---|---|---|
| detection | boxes, labels, image_id, area, iscrowd | boxes, labels, scores | ap |
| instances | the same and masks | the same and masks | mask_ap |
| segmentation | labels_map (H, W), 255 = ignore; image_id | labels (H, W), scores (H, W) | miou |
| classification | label (), image_id | labels (k,), scores (k,), best first | top1 |

A task's module is imported when it is asked for, so that options can be listed without torchvision.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pliant.train.options import MODELS

if TYPE_CHECKING:
    from torch import nn

    from pliant.train.config import TrainConfig
    from pliant.train.tasks.base import Task


__all__ = ["builder_of", "task_of"]


def task_of(config: TrainConfig) -> Task:
    """Return the task of the model of `config`.

    Example:
        >>> from pliant.train import TrainConfig
        >>> task_of(TrainConfig(data="shapes", model="faster-rcnn")).metric
        'ap'
    """
    task: Task = importlib.import_module(f"{__name__}.{MODELS[config.model].task}").TASK
    return task


def builder_of(config: TrainConfig) -> Callable[[TrainConfig, int, str | None], nn.Module]:
    """Return the builder of the model of `config`: (config, categories, weights of the backbone) to the model."""
    builder: Callable[[TrainConfig, int, str | None], nn.Module] = getattr(
        importlib.import_module(f"{__name__}.builders"), MODELS[config.model].builder
    )
    return builder
