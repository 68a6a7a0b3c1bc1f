# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: a label for each pixel, measured by mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pliant._check import counted, fail
from pliant.analysis import draw_labels, label_colours
from pliant.data import (
    Category,
    SegmentationDataset,
    eval_transforms,
    open_segmentation,
    segmentation_transforms,
    write_label_map,
)
from pliant.evaluation import SegmentationMetrics, confusion, segmentation_metrics
from pliant.train.config import TrainConfig
from pliant.train.tasks.base import VARIED, Output, Target, Task


class Segmentation(Task):
    """A label for each pixel."""

    metric: ClassVar[str] = "miou"
    logged: ClassVar[tuple[str, ...]] = ("miou", "pixel_accuracy", "mean_accuracy")
    unit: ClassVar[str] = "mIoU"
    found: ClassVar[str] = "classes"

    def open_data(
        self, config: TrainConfig, split: str, *, training: bool, known: Sequence[Category] | None = None
    ) -> SegmentationDataset:
        """Open a split with label maps in the layout of VOC, Cityscapes or paired folders; see `Task.open_data`."""
        if not training:
            transforms = eval_transforms()
            return open_segmentation(config.data, split, categories=known, transforms=transforms, verify="pixels")
        scale, crop = _two("scale_range", config.scale_range), _two("window", config.window)
        transforms = segmentation_transforms(scale=scale, crop=crop, **config.named("rotate", *VARIED))
        return open_segmentation(config.data, split, categories=known, transforms=transforms)

    def contents(self, dataset: Any) -> str:
        """Return `7 images with labels of 3 classes`."""
        return f"{counted(len(dataset), 'image')} with labels of {counted(len(dataset.categories), 'class')}"

    def part(self, output: Output, target: Target, dataset: Any) -> Tensor:
        """Return the image's confusion matrix, only its entries above 0: (2, n) places and counts."""
        truth = target["labels_map"].as_subclass(Tensor)
        matrix = confusion(truth, output["labels"], len(dataset.categories)).flatten()
        (places,) = matrix.nonzero(as_tuple=True)
        return torch.stack((places, matrix[places]))

    def score(self, parts: Sequence[Tensor], dataset: Any, config: TrainConfig) -> SegmentationMetrics:
        """Return the metric of the sum of the confusion matrices of all images."""
        classes = len(dataset.categories)
        matrix = torch.zeros(classes * classes, dtype=torch.int64)
        for places, counts in parts:
            matrix[places] += counts
        return segmentation_metrics(matrix.reshape(classes, classes), dataset.class_names)

    def records(self, image_id: int, output: Output, categories: Sequence[Category]) -> list[dict[str, Any]]:
        """Return for each class in the image how many pixels it has, and their mean score."""
        labels, scores = output["labels"], output["scores"]
        return [
            {
                "image_id": image_id,
                "category_id": categories[label].id,
                "category": categories[label].name,
                "pixels": int((labels == label).sum()),
                "score": round(float(scores[labels == label].mean()), 7),
            }
            for label in labels.unique().tolist()
        ]

    def draw(
        self, image: Tensor, output: Output, path: Path, *, categories: Sequence[Category], min_score: float
    ) -> None:
        """Draw the labels over the image, and write them beside it as a label map with the values of the data set.

        Every pixel is drawn, whatever its score.
        """
        values = torch.tensor([category.id for category in categories], dtype=torch.uint8)[output["labels"].long()]
        names = {category.id: category.name for category in categories}
        draw_labels(image, values, path, names=names)
        write_label_map(values, path.with_name(f"{path.stem}_labels.png"), palette=label_colours())


def _two(name: str, values: tuple[Any, ...] | None) -> tuple[Any, Any] | None:
    if values is None:
        return None
    if len(values) != 2:
        fail(name, "must be two numbers", " ".join(map(str, values)), "give two")
    return values[0], values[1]


TASK = Segmentation()
