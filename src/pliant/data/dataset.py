# SPDX-License-Identifier: Apache-2.0
"""`DetectionDataset`: images with boxes, whatever layout they came from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from pliant.data.checks import BoxTable, CheckedImage
from pliant.data.images import UnreadableImageError, read_image
from pliant.data.records import Category, ImageInfo
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Transform

_log = logging.getLogger(__name__)


class PixelCache:
    """Decoded images, kept until `budget` bytes are used; each process has its own.

    Nothing is thrown out for a newcomer: an epoch visits every image once, in another order each time, where the
    usual "forget the oldest" would find nothing of a data set larger than the budget.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._images: dict[int, Tensor] = {}

    def get(self, index: int) -> Tensor | None:
        """Return a copy of image `index` if it is kept; a transform may write into what it is given."""
        kept = self._images.get(index)
        return None if kept is None else kept.clone()

    def put(self, index: int, image: Tensor) -> None:
        """Keep a copy of `image` if the budget allows."""
        if image.nbytes <= self.budget:
            self.budget -= image.nbytes
            self._images[index] = image.clone()


class DetectionDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images with boxes, for torchvision's detectors; made by `open_dataset`.

    `dataset[i]` is an image, uint8 RGB (3, H, W), and its target:

    - `boxes` (L, 4) float32 `BoundingBoxes`, corners x1, y1, x2, y2 in pixels, 0-based and half-open, so that a box
      around the whole image is (0, 0, W, H);
    - `labels` (L,) int64, 1..C in the order of `categories`;
    - `image_id` scalar int64; `area` (L,) float32, square pixels; `iscrowd` (L,) uint8, 1 for COCO's crowds and VOC's
      difficult objects.

    An image found broken only when it is decoded is named once in the log, counted in `report`, and replaced by the
    next one that can be read, always the same; with `strict` it is an error.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        categories: Sequence[Category],
        images: Sequence[CheckedImage],
        boxes: BoxTable,
        report: DataReport,
        *,
        transforms: Transform | None = None,
        strict: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        self.root = root
        self.split = split
        self.categories = tuple(categories)
        self.transforms = transforms
        self.strict = strict
        self._images = list(images)
        self._boxes = boxes
        self._report = report
        self._cache = PixelCache(cache_bytes)
        # In shared memory: what a worker process finds broken, the process that reports knows too.
        self._broken: Tensor = torch.zeros(len(images), dtype=torch.uint8)
        self._broken.share_memory_()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: must be from {-len(self)} to {len(self) - 1}; got {index}")
        image, used = self._readable(index % len(self))
        target = self._target(used)
        return self.transforms(Image(image), target) if self.transforms else (image, target)

    @property
    def report(self) -> DataReport:
        """What was found wrong with the data until now, in this process and in its workers."""
        report = copy.deepcopy(self._report)
        for index in self._broken.nonzero().flatten().tolist():
            report.add(Problem.BROKEN_PIXELS, self.image_info(index).file_name)
        return report

    @property
    def class_names(self) -> list[str]:
        """The names of labels 1..C, in order."""
        return [category.name for category in self.categories]

    def image_info(self, index: int) -> ImageInfo:
        """Return what is known of image `index` without reading its pixels."""
        return self._images[index].info

    def with_transforms(self, transforms: Transform | None) -> DetectionDataset:
        """Return the same data with other transforms; images, cache and report are shared."""
        other = copy.copy(self)
        other.transforms = transforms
        return other

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the split as a COCO dictionary: `images`, `annotations` and `categories` with the source's ids.

        It holds what the data set holds: images and boxes that were left out are not in it. VOC's difficult objects
        have `iscrowd` 1, so that finding them is neither rewarded nor punished.
        """
        infos = [image.info for image in self._images]
        annotations = [row for index in range(len(self)) for row in self._annotations(index)]
        return {
            "images": [{"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height} for i in infos],
            "annotations": annotations,
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
        }

    def _annotations(self, index: int) -> list[dict[str, Any]]:
        table, rows, image_id = self._boxes, self._boxes.rows(index), self.image_info(index).id
        columns = (table.ids, table.corners, table.labels, table.areas, table.crowd)
        return [
            {
                "id": number,
                "image_id": image_id,
                "category_id": self.categories[label - 1].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": crowd,
            }
            for number, (x1, y1, x2, y2), label, area, crowd in zip(*(c[rows].tolist() for c in columns), strict=True)
        ]

    def _target(self, index: int) -> dict[str, Tensor]:
        rows, info = self._boxes.rows(index), self.image_info(index)
        corners = self._boxes.corners[rows].float()  # (L, 4)
        boxes = BoundingBoxes(corners, format=BoundingBoxFormat.XYXY, canvas_size=(info.height, info.width))
        return {
            "boxes": boxes,
            "labels": self._boxes.labels[rows].clone(),
            "image_id": torch.tensor(info.id),
            "area": self._boxes.areas[rows].float(),
            "iscrowd": self._boxes.crowd[rows].clone(),
        }

    def _readable(self, index: int) -> tuple[Tensor, int]:
        """Return the pixels of image `index`, or of the next one that can be read, and which one it is."""
        for used in (*range(index, len(self)), *range(index)):
            if not self._broken[used] and (image := self._pixels(used)) is not None:
                return image, used
        raise UnreadableImageError(f"{self.root}: must have an image that can be read; got none; copy them again")

    def _pixels(self, index: int) -> Tensor | None:
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        image = self._images[index]
        try:
            pixels = read_image(image.info.path, apply_exif=image.apply_exif)
        except UnreadableImageError as error:
            if self.strict:
                raise
            self._broken[index] = 1
            _log.warning("%s: %s; the next image takes its place", image.info.file_name, error)
            return None
        self._cache.put(index, pixels)
        return pixels
