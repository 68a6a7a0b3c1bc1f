# SPDX-License-Identifier: Apache-2.0
"""`SegmentationDataset`: images with a label for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.tv_tensors import Mask

from pliant.data.image_checks import CheckedImage
from pliant.data.image_dataset import CheckedDataset, OpenedSplit
from pliant.data.images import UnreadableImageError
from pliant.data.label_maps import LabelTable, read_label_map
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Target


class SegmentationDataset(CheckedDataset):
    """Images with a label for each pixel; made by `open_segmentation`.

    `dataset[i]` is an image, uint8 RGB (3, H, W), and its target:

    - `labels_map` (H, W) uint8 `Mask`: 0..C-1 in the order of `categories`, 255 where nothing is to be learned;
    - `image_id` scalar int64.

    `ImageDataset` says what happens to images that are found broken only when they are decoded; a broken label map
    counts as a broken image.
    """

    def __init__(
        self, opened: OpenedSplit, images: Sequence[CheckedImage], labels: Sequence[Path], table: LabelTable
    ) -> None:
        super().__init__(opened, images)
        self._labels = list(labels)
        self._table = table
        self._odd: Tensor = torch.zeros(len(labels), dtype=torch.uint8)
        self._odd.share_memory_()

    @property
    def report(self) -> DataReport:
        """What was found wrong with the data until now, in this process and in its workers."""
        report = super().report
        for index in self._odd.nonzero().flatten().tolist():
            report.add(Problem.UNKNOWN_LABELS, self._labels[index].name)
        return report

    def labels_map(self, index: int) -> Tensor:
        """Return the labels (H, W) uint8 of image `index` without reading the image.

        Raises:
            UnreadableImageError: the label map is broken.
        """
        labels, unknown = self._table(read_label_map(self._labels[index]))
        if unknown:
            self._odd[index] = 1
        return labels

    def pixels_of_classes(self, index: int) -> tuple[Tensor, int]:
        """Return how many pixels of the label map of image `index` have each label (C,), and how many a value of none.

        Raises:
            UnreadableImageError: the label map is broken.
        """
        labels, unknown = self._table(read_label_map(self._labels[index]))
        counts = labels.flatten().bincount(minlength=256)[: len(self.categories)]
        return counts, len(unknown)

    def _target(self, index: int) -> Target:
        info = self.image_info(index)
        labels = self.labels_map(index)
        if labels.shape != (info.height, info.width):
            # Both sizes were read from the headers before; one of the files was replaced since.
            found = f"the shape {tuple(labels.shape)} is not the size of the image"
            raise UnreadableImageError(f"{self._labels[index]}: {found}")
        return {"labels_map": Mask(labels), "image_id": torch.tensor(info.id)}
