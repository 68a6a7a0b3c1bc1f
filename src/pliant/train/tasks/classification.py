# SPDX-License-Identifier: Apache-2.0
"""Image classification: a label for each image, measured by top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from pliant._check import counted, fail
from pliant.analysis import draw_ranking
from pliant.data import (
    Category,
    ClassificationDataset,
    classification_transforms,
    eval_transforms,
    open_classification,
)
from pliant.evaluation import ClassificationMetrics, classification_metrics, rank_of_truth
from pliant.train.config import TrainConfig
from pliant.train.tasks.base import VARIED, Output, Target, Task


class Classification(Task):
    """A label for each image."""

    metric: ClassVar[str] = "top1"
    logged: ClassVar[tuple[str, ...]] = ("top1", "top5")
    unit: ClassVar[str] = "top-1"
    found: ClassVar[str] = "labels"
    images_at_once: ClassVar[int] = 32

    def open_data(
        self, config: TrainConfig, split: str, *, training: bool, known: Sequence[Category] | None = None
    ) -> ClassificationDataset:
        """Open a split of images in a folder for each class; see `Task.open_data`."""
        if not training:
            return open_classification(config.data, split, categories=known, transforms=eval_transforms())
        if len(config.crop_area) != 2:
            fail("crop_area", "must be two shares", config.crop_area, "give e.g. 0.08 1")
        scale = (config.crop_area[0], config.crop_area[1])
        transforms = classification_transforms(config.crop_size, scale=scale, **config.named("rotate", *VARIED))
        return open_classification(config.data, split, categories=known, transforms=transforms)

    def contents(self, dataset: Any) -> str:
        """Return `60 images of 10 classes`."""
        return f"{counted(len(dataset), 'image')} of {counted(len(dataset.categories), 'class')}"

    def part(self, output: Output, target: Target, dataset: Any) -> tuple[int, int, int]:
        """Return the image's id, the true label, and its place among the predicted ones."""
        label = int(target["label"])
        return int(target["image_id"]), label, rank_of_truth(label, output["labels"])

    def score(self, parts: Sequence[tuple[int, int, int]], dataset: Any, config: TrainConfig) -> ClassificationMetrics:
        """Return the accuracies over all images that can be read; one that took a broken one's place counts once."""
        found = {image_id: (label, rank) for image_id, label, rank in parts}
        labels, ranks = zip(*found.values(), strict=True)
        return classification_metrics(labels, ranks, dataset.class_names)

    def records(self, image_id: int, output: Output, categories: Sequence[Category]) -> list[dict[str, Any]]:
        """Return the best labels, best first."""
        return [
            {
                "image_id": image_id,
                "category_id": categories[label].id,
                "category": categories[label].name,
                "score": round(score, 7),
            }
            for label, score in zip(output["labels"].tolist(), output["scores"].tolist(), strict=True)
        ]

    def draw(
        self, image: Tensor, output: Output, path: Path, *, categories: Sequence[Category], min_score: float
    ) -> None:
        """Draw the image and the best labels below it, whatever their scores."""
        names = {label: category.name for label, category in enumerate(categories)}
        draw_ranking(image, output["labels"].tolist(), output["scores"].tolist(), path, names=names)


TASK = Classification()
