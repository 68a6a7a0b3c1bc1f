# SPDX-License-Identifier: Apache-2.0
"""`DetectionDataset`: images with boxes, whatever layout they came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from pliant.data.report import DataReport
from pliant.data.transforms import Transform


@dataclass(frozen=True)
class Category:
    """A category as its source numbers it (COCO's ids may have gaps); a detector's labels are 1..C in this order."""

    id: int
    name: str


@dataclass(frozen=True)
class ImageInfo:
    """One image of a data set: the source's id and file name, where it lies, and its size in pixels."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


class DetectionDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with boxes, for torchvision's detectors."""

    categories: tuple[Category, ...]
    report: DataReport
    root: Path
    split: str

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def image_info(self, index: int) -> ImageInfo:
        """Return what is known of image `index` without reading its pixels."""
        raise NotImplementedError

    @property
    def class_names(self) -> list[str]:
        """The names of labels 1..C, in order."""
        raise NotImplementedError

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the split as a COCO dictionary with the ids of `categories`."""
        raise NotImplementedError

    def with_transforms(self, transforms: Transform | None) -> DetectionDataset:
        """Return the same data with other transforms; cache and report are shared."""
        raise NotImplementedError


def check_images(dataset: DetectionDataset, progress: Callable[[int, int], None] | None = None) -> list[ImageInfo]:
    """Decode every image and return those that are broken."""
    raise NotImplementedError
