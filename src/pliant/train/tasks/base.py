# SPDX-License-Identifier: Apache-2.0
"""`Task`: what every task gives to training, evaluation and the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant.data import Category, DataReport, ImageInfo
from pliant.train.config import TrainConfig

Sample = tuple[Tensor, dict[str, Tensor]]
Target = Mapping[str, Tensor]
Output = dict[str, Tensor]
Predictor = Callable[[list[Tensor]], list[Output]]
VARIED = ("flip", "vertical_flip", "rotate90", "photometric")  # the settings that vary training images of every task


class Examples(Protocol):
    """A split of a data set: (image (3, H, W), target) by index."""

    split: str
    categories: tuple[Category, ...]

    @property
    def report(self) -> DataReport:
        """What was found wrong with the data until now."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def image_info(self, index: int) -> ImageInfo:
        """What is known of an image without reading its pixels: its id, its file's name, its size."""

    def fingerprint(self) -> str:
        """A checksum of which images the split holds, in which order."""


class Metrics(Protocol):
    """The metric of a split."""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON."""

    def table(self) -> str:
        """Return the numbers as people know them, in several lines."""


class Task(ABC):
    """A task; each has one object, `TASK` in its module.

    Attributes:
        metric: the key of the metrics' `as_dict()` that decides the best weights; more is better.
        logged: the keys of it that go into metrics.jsonl after each evaluation, `metric` among them.
        unit: how `metric` is called in a line of text.
        found: what a record of `records` is, in the plural.
        images_at_once: how many images are predicted together in an evaluation; 1 unless they end up in one size.
    """

    metric: ClassVar[str]
    logged: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    found: ClassVar[str]
    images_at_once: ClassVar[int] = 1

    @abstractmethod
    def open_data(
        self, config: TrainConfig, split: str, *, training: bool, known: Sequence[Category] | None = None
    ) -> Examples:
        """Open `split` of `config.data`, with the augmentation of training or as it is for evaluation.

        `known` are the categories of a trained model, which labels then follow; None takes them from the data.
        """

    @abstractmethod
    def contents(self, dataset: Examples) -> str:
        """Return what the split holds, in a few words: `7 images, 14 boxes`."""

    @abstractmethod
    def part(self, output: Output, target: Target, dataset: Examples) -> Any:
        """Return what one image contributes to the metric: plain values or CPU tensors, small."""

    @abstractmethod
    def score(self, parts: Sequence[Any], dataset: Examples, config: TrainConfig) -> Metrics:
        """Return the metric of a split from the parts of all of its images."""

    def predictor(self, model: nn.Module, config: TrainConfig) -> Predictor:
        """Return the function from images to predictions: the model, with the options of inference."""
        return model

    @abstractmethod
    def records(self, image_id: int, output: Output, categories: Sequence[Category]) -> list[dict[str, Any]]:
        """Return the predictions of one image as plain values for predictions.json."""

    @abstractmethod
    def draw(
        self,
        image: Tensor,
        output: Output,
        path: Path,
        *,
        categories: Sequence[Category],
        min_score: float,
    ) -> None:
        """Draw the predictions on a uint8 image (3, H, W) into the PNG `path`; files beside it share its stem."""

    def draw_bins(self, model: nn.Module, image: Tensor, output: Output, path: Path, *, min_score: float) -> None:
        """Draw where deformable RoI pooling puts its bins on the predictions, into the PNG `path`.

        Raises:
            PliantError: the model has no such pooling.
        """
        fix = "leave --draw bins out"
        fail("draw", "bins needs a detector with deformable RoI pooling", type(model).__name__, fix)


@torch.no_grad()
def predict_batch(predict: Predictor, images: Sequence[Tensor], device: torch.device) -> list[Output]:
    """Return the predictions on a batch of images, on the CPU."""
    outputs = predict([image.to(device) for image in images])
    return [{name: tensor.cpu() for name, tensor in output.items()} for output in outputs]
