# SPDX-License-Identifier: Apache-2.0
"""The tasks: what training, evaluation and prediction do differently for detection, segmentation, classification.

`task_of(config)` gives the task of `config.model`; the table `MODELS` in pliant/train/options/models.py is the one
place that says which model is for which task. A task is an object of `Task` (base.py), which run.py, engine.py,
model.py and the command line talk to, and nothing else:

- `metric`: the key of the metrics that decides the best weights; `logged`: the keys that metrics.jsonl gets;
- `open_data(config, split, training=, known=)`: a data set of (image, target), with `split`, `categories`, `report`;
- `build(config, categories, weights=)`: the model; its builder for each model name is in the task's own file;
- `part(output, target, dataset)` and `score(parts, dataset, config)`: what one image contributes to the metric, and the
  metric of them all. A part is small and can be pickled: with several processes each one makes the parts of its own
  images, and the main process scores them all. `engine.evaluate` is put together from the two;
- `predictor(model, config)`: the function of images that predicts, with what is done at test time alone;
- `records(image_id, output, categories)` and `draw(...)`: what `pliant predict` writes;
- `features(model, image)`: what `pliant explain` looks into.

Every model follows torchvision's detection convention, whatever its task: in training form `model(images, targets)` is
a dictionary of losses, images being a list of (3, H, W) floats in 0..1 and targets a list of dictionaries of tensors;
in evaluation form `model(images)` is a list of dictionaries of tensors, one for each image. Normalising, resizing and
batching happen inside.

| task | target | output | metric |
|---|---|---|---|
| detection | boxes, labels, image_id, area, iscrowd (masks) | boxes, labels, scores (masks) | ap |
| segmentation | labels_map (H, W), 255 = ignore; image_id | labels (H, W), scores (H, W) | miou |
| classification | label (), image_id | labels (k,), scores (k,), best first | top1 |

A task's module is imported when it is asked for, so that options can be listed without torchvision.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pliant.train.config import TrainConfig
    from pliant.train.tasks.base import Task

# Each module holds its task as TASK. A model that is measured in another way than its task has one of its own.
TASKS = {
    "detection": ".detection",
    "mask-rcnn": ".instances",
    "mask-rcnn-dc5": ".instances",
    "segmentation": ".segmentation",
    "classification": ".classification",
}


def task_of(config: TrainConfig) -> Task:
    """Return the task of the model of `config`.

    Example:
        >>> from pliant.train import TrainConfig
        >>> task_of(TrainConfig(data="shapes", model="faster-rcnn")).metric
        'ap'
    """
    module = TASKS.get(config.model, TASKS[config.task])
    task: Task = importlib.import_module(module, __name__).TASK
    return task
