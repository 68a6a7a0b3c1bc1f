# SPDX-License-Identifier: Apache-2.0
"""What every data set of images shares: decoding, the cache, and what happens when an image turns out to be broken."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image

from pliant._check import plain
from pliant.data.image_checks import CheckedImage
from pliant.data.images import UnreadableImageError, read_image
from pliant.data.records import Category, ImageInfo
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Target, Transform

_log = logging.getLogger(__name__)


class PixelCache:
    """Decoded images, kept until `budget` bytes are used; each process has its own.

    Nothing is removed for a new image: an epoch visits every image once, in another order each time, so
    that a cache which drops the oldest would hold nothing that is asked for, of a data set larger than the budget.
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


@dataclass(frozen=True, slots=True)
class ImageFile:
    """Where an image lies, how it is called in the report, and whether its EXIF orientation is to be applied."""

    name: str
    path: Path
    apply_exif: bool = True


@dataclass(frozen=True)
class OpenedSplit:
    """A split as it was opened, whatever it holds.

    Attributes:
        root: the folder of the data.
        split: its part, "train" for instance.
        categories: in the order of the labels.
        report: what was found wrong.
        transforms: applied to image and target.
        strict: whether an image that is found broken later is an error.
        cache_bytes: size of the decoded images kept in memory, for each process.
    """

    root: Path
    split: str
    categories: Sequence[Category]
    report: DataReport
    transforms: Transform | None = None
    strict: bool = False
    cache_bytes: int = 0


class ImageDataset(ABC, Dataset[tuple[Tensor, Target]]):
    """Images and a target for each; where they lie and what a target holds is for the subclass to say.

    An image found broken only when it is decoded is named once in the log, counted in `report`, and replaced by the
    next one that can be read, always the same; with `strict` it is an error.
    """

    def __init__(self, opened: OpenedSplit, images: int) -> None:
        self.root, self.split, self.categories = opened.root, opened.split, tuple(opened.categories)
        self.transforms, self.strict = opened.transforms, opened.strict
        self._report = opened.report
        self._cache = PixelCache(opened.cache_bytes)
        # In shared memory: what a worker process finds broken, the process that reports knows too.
        self._broken: Tensor = torch.zeros(images, dtype=torch.uint8)
        self._broken.share_memory_()

    @abstractmethod
    def image_info(self, index: int) -> ImageInfo:
        """Return what is known of image `index` without reading its pixels."""

    @abstractmethod
    def image_id(self, index: int) -> int:
        """Return the id of image `index`, which results are given under."""

    @abstractmethod
    def _file(self, index: int) -> ImageFile:
        """Return where image `index` lies."""

    @abstractmethod
    def _target(self, index: int) -> Target:
        """Return the target of image `index`; `UnreadableImageError` if it lies in a file that is broken."""

    def __len__(self) -> int:
        return len(self._broken)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: must be from {-len(self)} to {len(self) - 1}; got {index}")
        image, target = self._readable(index % len(self))
        return self.transforms(Image(image), target) if self.transforms else (image, target)

    @property
    def report(self) -> DataReport:
        """What was found wrong with the data until now, in this process and in its workers."""
        report = copy.deepcopy(self._report)
        for index in self._broken.nonzero().flatten().tolist():
            report.add(Problem.BROKEN_PIXELS, self._file(index).name)
        return report

    def fingerprint(self) -> str:
        """Return a checksum of which images the split holds, in which order; no image is opened for it."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            # A name that is no UTF-8 comes from the file system with surrogates.
            digest.update(f"{self.image_id(index)} {self._file(index).name}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def class_names(self) -> list[str]:
        """The names of the categories, in the order of their labels."""
        return [category.name for category in self.categories]

    def with_transforms(self, transforms: Transform | None) -> Self:
        """Return the same data with other transforms; images, cache and report are shared."""
        other = copy.copy(self)
        other.transforms = transforms
        return other

    def _readable(self, index: int) -> tuple[Tensor, Target]:
        """Return the pixels and the target of image `index`, or of the next one that can be read."""
        for used in itertools.chain(range(index, len(self)), range(index)):
            if self._broken[used]:
                continue
            try:
                return self._pixels(used), self._target(used)
            except UnreadableImageError as error:
                if self.strict:
                    raise
                self._broken[used] = 1
                _log.warning("%s: %s; the next image takes its place", plain(self._file(used).name), error)
        raise UnreadableImageError(f"{self.root}: must have an image that can be read; got none; copy them again")

    def _pixels(self, index: int) -> Tensor:
        kept = self._cache.get(index)
        if kept is not None:
            return kept
        file = self._file(index)
        pixels = read_image(file.path, apply_exif=file.apply_exif)
        self._cache.put(index, pixels)
        return pixels


class CheckedDataset(ImageDataset):
    """Images that were all opened, and their sizes settled, before the first is read."""

    def __init__(self, opened: OpenedSplit, images: Sequence[CheckedImage]) -> None:
        super().__init__(opened, len(images))
        self._images = list(images)

    def image_info(self, index: int) -> ImageInfo:
        """Return what is known of image `index` without reading its pixels."""
        return self._images[index].info

    def image_id(self, index: int) -> int:
        """Return the id of image `index`, which results are given under."""
        return self._images[index].info.id

    def _file(self, index: int) -> ImageFile:
        image = self._images[index]
        return ImageFile(image.info.file_name, image.info.path, image.apply_exif)
