# SPDX-License-Identifier: Apache-2.0
"""`ClassificationDataset`: images in a folder for each class, as ImageNet's are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pliant.data.image_dataset import ImageDataset, ImageFile, OpenedSplit
from pliant.data.images import read_header
from pliant.data.records import ImageInfo
from pliant.data.transforms import Target


class ClassificationDataset(ImageDataset):
    """Images with one class each; made by `open_classification`.

    `dataset[i]` is an image, uint8 RGB (3, H, W), and its target: `label`, scalar int64 from 0 to C-1 in the order of
    `categories`, and `image_id`, scalar int64, the place of the image from 1. No image is opened before it is asked
    for; `ImageDataset` says what happens to those that are found broken then.
    """

    def __init__(self, opened: OpenedSplit, names: Sequence[str], labels: Sequence[int]) -> None:
        super().__init__(opened, len(names))
        self._names = names  # below the split's folder; a million of them, so not as paths
        self.labels = torch.tensor(labels, dtype=torch.int64)  # (N,)

    def image_info(self, index: int) -> ImageInfo:
        """Return the file and the size of image `index`, which is opened for that.

        Raises:
            UnreadableImageError: it is broken.
        """
        file, index = self._file(index), range(len(self))[index]
        return ImageInfo(self.image_id(index), file.name, file.path, *read_header(file.path).upright_size)

    def image_id(self, index: int) -> int:
        """Return the id of image `index`: its place, from 1."""
        return index + 1

    def _file(self, index: int) -> ImageFile:
        return ImageFile(self._names[index], self.root / self.split / self._names[index])

    def _target(self, index: int) -> Target:
        return {"label": self.labels[index].clone(), "image_id": torch.tensor(self.image_id(index))}
