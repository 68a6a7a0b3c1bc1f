# SPDX-License-Identifier: Apache-2.0
"""`open_classification`: list the classes and the images of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pliant._check import fail
from pliant.data.classification.dataset import ClassificationDataset
from pliant.data.files import image_names, visible
from pliant.data.image_checks import refuse_unusable, shown_names
from pliant.data.image_dataset import OpenedSplit
from pliant.data.images import UnreadableImageError, read_header
from pliant.data.records import Category
from pliant.data.refusals import check_folder, refuse_layout, refuse_split
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Transform

# How many images are opened when a split is.
_PROBES = 20


def open_classification(
    root: Path | str,
    split: str = "train",
    *,
    categories: Sequence[Category] | None = None,
    transforms: Transform | None = None,
    strict: bool = False,
    cache_bytes: int = 256 * 2**20,
) -> ClassificationDataset:
    """Open one split of images in a folder for each class: `{split}/{class}/.../image.jpg`.

    Classes are numbered from 0 in the order of their names, as torchvision's `ImageFolder` numbers them. The folders
    are listed and some twenty images opened; the others are not, so that ImageNet's 1.28 million take seconds. An image
    that is broken is found when it is read. What is wrong is counted and named in `report` of the result.

    Args:
        root: the folder with the splits.
        split: the part to read, "train" for instance.
        categories: those of a trained model, which labels then follow, by name; None takes them from the folders.
        transforms: applied to image and target, see `classification_transforms` and `eval_transforms`.
        strict: make any problem an error, a broken image too when it is read.
        cache_bytes: size of the decoded images kept in memory, for each process; 0 keeps none.

    Raises:
        PliantError: the split is not there, has no folders of classes or no images; fewer than half of the images that
            are opened are in order; no class is one of `categories`, or, where that is None, fewer than two have
            images; or, with `strict`, anything is wrong.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("oak", "ash"):
        ...     (root / "train" / name).mkdir(parents=True)
        ...     Image.new("RGB", (4, 3)).save(root / "train" / name / "1.png")
        >>> dataset = open_classification(root)
        >>> dataset.class_names, dataset[1][1]["label"].item()
        (['ash', 'oak'], 1)
    """
    root = Path(root)
    check_folder(root)
    report = DataReport()
    folders = _class_folders(root, split, report)
    own = [Category(label, path.name) for label, path in enumerate(folders)]
    known = own if categories is None else list(categories)
    place = f"{root}, split {split!r}"
    _refuse_other_classes(place, own, known)
    names, labels = _listed(folders, {category.name: label for label, category in enumerate(known)}, report)
    report.images = len(names)
    refuse_unusable(place, len(names), report, strict=strict)
    _probe(place, root / split, names)
    if categories is None and len(set(labels)) < 2:
        got = f"{shown_names(known)} alone"
        fail(place, "must have two classes with images at least", got, "add the folder of another class")
    opened = OpenedSplit(root, split, known, report, transforms, strict, cache_bytes)
    return ClassificationDataset(opened, names, labels)


def _class_folders(root: Path, split: str, report: DataReport) -> list[Path]:
    splits = [path.name for path in _subfolders(root) if _subfolders(path)]
    if split not in splits:
        if splits:
            refuse_split(root, split, splits)
        refuse_layout(root, "must be a folder of splits with a folder for each class", f"{split}/CLASS/IMAGE.jpg")
    return _subfolders(root / split, report)


def _subfolders(path: Path, report: DataReport | None = None) -> list[Path]:
    return visible((child for child in path.iterdir() if child.is_dir()), report)


def _listed(folders: Sequence[Path], labels: Mapping[str, int], report: DataReport) -> tuple[list[str], list[int]]:
    """List the images of all classes, as paths below the split's folder, and their labels."""
    names: list[str] = []
    found: list[int] = []
    for folder in folders:
        if folder.name not in labels:
            report.add(Problem.UNTRAINED_CLASS, folder.name)
            continue
        inside = [f"{folder.name}/{name}" for name in image_names(folder, report)]
        if not inside:
            report.add(Problem.EMPTY_CLASS, folder.name)
        names += inside
        found += [labels[folder.name]] * len(inside)
    return names, found


def _probe(place: str, home: Path, names: Sequence[str]) -> None:
    """Refuse folders of files that are no images, before training begins; opening all of them would take minutes."""
    opened = names[:: max(1, len(names) // _PROBES)]
    broken = []
    for name in opened:
        try:
            read_header(home / name)
        except UnreadableImageError as error:
            broken.append(str(error))
    if 2 * len(broken) > len(opened):
        got = f"{len(broken)} broken of {len(opened)} opened"
        fail(place, "must have at least half of its images in order", got, broken[0])


def _refuse_other_classes(place: str, own: Sequence[Category], known: Sequence[Category]) -> None:
    if not {category.name for category in own} & {category.name for category in known}:
        rule = f"must have classes of the model, {shown_names(known)}"
        fail(place, rule, shown_names(own), "give the data of this model")
