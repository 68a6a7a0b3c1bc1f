# SPDX-License-Identifier: Apache-2.0
"""`open_class_folders` and `ClassificationDataset`: images in a folder for each class, as ImageNet's are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from pliant._check import PliantError, fail, suggest
from pliant.data.checks import CheckedImage, Progress, Verify, checked_image, refuse_unusable
from pliant.data.image_dataset import ImageDataset
from pliant.data.images import EXTENSIONS
from pliant.data.records import Category, Source, SourceImage
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Target, Transform

_SHOWN = 8


class ClassificationDataset(ImageDataset):
    """Images with one class each; made by `open_class_folders`.

    `dataset[i]` is an image, uint8 RGB (3, H, W), and its target: `label`, scalar int64 from 0 to C-1 in the order of
    `categories`, and `image_id`, scalar int64. `ImageDataset` says what happens to images that are found broken only
    when they are decoded.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        categories: Sequence[Category],
        images: Sequence[CheckedImage],
        labels: Sequence[int],
        report: DataReport,
        *,
        transforms: Transform | None = None,
        strict: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(
            root, split, categories, images, report, transforms=transforms, strict=strict, cache_bytes=cache_bytes
        )
        self.labels = torch.tensor(labels, dtype=torch.int64)  # (N,)

    def _target(self, index: int) -> Target:
        return {"label": self.labels[index].clone(), "image_id": torch.tensor(self.image_info(index).id)}


def open_class_folders(
    root: Path | str,
    split: str = "train",
    *,
    categories: Sequence[Category] | None = None,
    transforms: Transform | None = None,
    strict: bool = False,
    verify: Verify = "header",
    cache_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> ClassificationDataset:
    """Open one split of images in a folder for each class: `{split}/{class}/.../image.jpg`.

    Classes are numbered from 0 in the order of their names, as torchvision's `ImageFolder` numbers them. What is wrong
    is counted and named in `report` of the result.

    Args:
        root: the folder with the splits.
        split: the part to read, "train" for instance.
        categories: those of a trained model, which labels then follow, by name; None takes them from the folders.
        transforms: applied to image and target, see `classification_transforms` and `eval_transforms`.
        strict: make any problem an error.
        verify: "header" opens every image and reads its size, "pixels" decodes every image.
        cache_bytes: size of the decoded images kept in memory, for each process; 0 keeps none.
        progress: called as `progress(done, total)` while images are checked.

    Raises:
        PliantError: the split is not there or has no folders of classes; fewer than half of the images are in order;
            no class is one of `categories`; or, with `strict`, anything is wrong.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("oak", "ash"):
        ...     (root / "train" / name).mkdir(parents=True)
        ...     Image.new("RGB", (4, 3)).save(root / "train" / name / "1.png")
        >>> dataset = open_class_folders(root)
        >>> dataset.class_names, dataset[1][1]["label"].item()
        (['ash', 'oak'], 1)
    """
    root = Path(root)
    if not root.is_dir():
        fail("data", "must be a folder", root, "no such folder is there", kind=PliantError)
    folders = _class_folders(root, split)
    report = DataReport()
    own = [Category(label, path.name) for label, path in enumerate(folders)]
    known = own if categories is None else list(categories)
    labels = {category.name: label for label, category in enumerate(known)}
    place = f"{root}, split {split!r}"
    _refuse_other_classes(place, own, known)
    images, found, listed = _checked(root / split, folders, labels, report, verify, progress)
    report.images = len(images)
    refuse_unusable(place, Source(own, listed=listed), known, report, strict)
    return ClassificationDataset(
        root, split, known, images, found, report, transforms=transforms, strict=strict, cache_bytes=cache_bytes
    )


def _class_folders(root: Path, split: str) -> list[Path]:
    splits = [path.name for path in sorted(root.iterdir()) if path.is_dir() and _subfolders(path)]
    if split not in splits:
        _refuse(root, split, splits)
    return _subfolders(root / split)


def _subfolders(path: Path) -> list[Path]:
    return sorted((child for child in path.iterdir() if child.is_dir()), key=lambda child: child.name)


def _checked(
    home: Path,
    folders: Sequence[Path],
    labels: dict[str, int],
    report: DataReport,
    verify: Verify,
    progress: Progress | None,
) -> tuple[list[CheckedImage], list[int], int]:
    """Check every image below `folders`; return those in order, their labels, and how many files there were."""
    files: list[tuple[Path, int]] = []
    for folder in folders:
        if folder.name not in labels:
            report.add(Problem.UNTRAINED_CLASS, folder.name)
            continue
        inside = [(path, labels[folder.name]) for path in _images(folder)]
        if not inside:
            report.add(Problem.EMPTY_CLASS, folder.name)
        files += inside
    images, found = [], []
    for number, (path, label) in enumerate(files, 1):
        source = SourceImage(number, path.relative_to(home).as_posix(), path, None)
        checked = checked_image(source, report, verify, states_size=False)
        if checked:
            images.append(checked)
            found.append(label)
        if progress:
            progress(number, len(files))
    return images, found, len(files)


def _images(folder: Path) -> Iterator[Path]:
    """Yield the images in `folder` and the folders in it, by name; links to other folders are not followed."""
    for place, inner, names in os.walk(folder):
        inner.sort()
        yield from (Path(place, name) for name in sorted(names) if name.lower().endswith(EXTENSIONS))


def _refuse_other_classes(place: str, own: Sequence[Category], known: Sequence[Category]) -> None:
    if not {category.name for category in own} & {category.name for category in known}:
        names, has = (", ".join(repr(c.name) for c in some[:_SHOWN]) for some in (known, own))
        fail(place, f"must have classes of the model, {names}", has, "give the data of this model", kind=PliantError)


def _refuse(root: Path, split: str, splits: Sequence[str]) -> NoReturn:
    if splits:
        names = ", ".join(repr(name) for name in splits)
        fail("split", f"must be one of those in {root}: {names}", repr(split),
             f"give one of them.{suggest(split, splits)}", kind=PliantError)  # fmt: skip
    there = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    shown = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
    fail("data", "must be a folder of splits with a folder for each class", f"{root} with {shown or 'nothing in it'}",
         f"looked for {split}/CLASS/IMAGE.jpg", kind=PliantError)  # fmt: skip
