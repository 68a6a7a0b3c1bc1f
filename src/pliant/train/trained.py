# SPDX-License-Identifier: Apache-2.0
"""A trained run in Python: images in, predictions out, and pictures of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from pliant._check import counted, fail
from pliant.data import Category, read_image
from pliant.train.model import load_run, pick_device
from pliant.train.tasks import task_of
from pliant.train.tasks.base import Output, Task, predict_batch

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | Path | Tensor | np.ndarray[Any, Any] | Image.Image


@dataclass(frozen=True)
class Prediction:
    """What a model finds in one image.

    Attributes:
        image: uint8 (3, H, W), what was looked at.
        output: torchvision's dict of tensors: `boxes` (D, 4), `labels` (D,) and `scores` (D,) of a detector, and
            `masks`; `labels` (H, W) of a segmenter; `labels` (k,) and `scores` (k,) of a classifier.
        names: the name of each label that the model knows, by its number.
    """

    image: Tensor
    output: Output
    names: dict[int, str]
    _task: Task
    _categories: tuple[Category, ...]

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor of `output`."""
        return self.output[name]

    def records(self) -> list[dict[str, Any]]:
        """Return the predictions as plain values, as `pliant predict` writes them: COCO results of a detector."""
        return self._task.records(1, self.output, self._categories)

    def draw(self, path: Path | str | None = None, *, min_score: float = 0.5) -> Image.Image:
        """Return a picture of the predictions, and write it where `path` is given.

        Args:
            path: a PNG file, or None.
            min_score: the least score of a detection that is drawn, 0..1.
        """
        from PIL import Image

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "picture.png" if path is None else Path(path)
            self._task.draw(self.image, self.output, file, categories=self._categories, min_score=min_score)
            with Image.open(file) as picture:
                return picture.convert("RGB")


class TrainedModel:
    """The model of a run folder, which `pliant.load` returns.

    Attributes:
        model: the network, in evaluation mode.
        categories: what it was trained to tell apart.
        config: the settings of its training.
        device: where it runs.
    """

    def __init__(self, run: Path | str, device: str = "auto") -> None:
        model, self.categories, self.config = load_run(Path(run))
        self.device = pick_device(device)
        self.model: nn.Module = model.to(self.device)
        self._task = task_of(self.config)
        self._predict = self._task.predictor(self.model, self.config)

    def __repr__(self) -> str:
        names = ", ".join(category.name for category in self.categories[:4])
        more = ", ..." if len(self.categories) > 4 else ""
        number = counted(len(self.categories), "category")
        return f"TrainedModel({self.config.model}, {number}: {names}{more}, on {self.device})"

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    @overload
    def predict(self, images: Picture) -> Prediction: ...
    def predict(self, images: Picture | list[Any] | tuple[Any, ...]) -> Prediction | list[Prediction]:
        """Return what the model finds in an image, or for a list of images the list of that.

        Args:
            images: a path, a PIL image, a numpy array (H, W, 3) of uint8, or a tensor (3, H, W), uint8 or floating
                from 0 to 1; or a list of them.

        Raises:
            PliantError: one is none of these, or cannot be read.
        """
        if isinstance(images, (list, tuple)):
            return [self._one(image) for image in images]
        return self._one(images)

    def _one(self, picture: Picture) -> Prediction:
        image = as_image(picture)
        output = predict_batch(self._predict, [image.float() / 255], self.device)[0]
        names = {number: category.name for number, category in enumerate(self.categories, start=self._first_label())}
        return Prediction(image, output, names, self._task, self.categories)

    def _first_label(self) -> Literal[0, 1]:
        """Detectors' labels start at 1, since 0 is the background; others' at 0."""
        return 1 if self._task.found == "detections" else 0


def as_image(picture: Any) -> Tensor:
    """Return a picture as uint8 (3, H, W).

    Args:
        picture: as for `TrainedModel.predict`.

    Raises:
        PliantError: it is none of these.

    Example:
        >>> import numpy as np
        >>> as_image(np.zeros((4, 6, 3), np.uint8)).shape
        torch.Size([3, 4, 6])
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    rule = "must be a path, a PIL image, a uint8 array (H, W, 3) or a tensor (3, H, W)"
    if isinstance(picture, Tensor):
        if picture.dim() != 3 or picture.shape[0] != 3:
            fail("images", rule, f"a tensor of shape {tuple(picture.shape)}", "give one image, or a list of them")
        scaled = (picture * 255).round() if picture.is_floating_point() else picture
        return scaled.clamp(0, 255).to(torch.uint8).cpu()
    array = np.asarray(picture.convert("RGB")) if hasattr(picture, "convert") else picture
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        fail("images", rule, type(picture).__name__, "give one image, or a list of them")
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
