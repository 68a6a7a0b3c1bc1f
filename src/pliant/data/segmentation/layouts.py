# SPDX-License-Identifier: Apache-2.0
"""Layouts of data for semantic segmentation: which image goes with which label map, and what the values mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pliant._check import fail
from pliant.data.class_names import CITYSCAPES_CLASSES, CITYSCAPES_IDS, VOC_CLASSES, read_class_names
from pliant.data.files import files_by_stem, image_names, is_plain_name, lines_of, visible
from pliant.data.label_maps import SUFFIXES
from pliant.data.records import Category
from pliant.data.refusals import refuse_layout, refuse_split
from pliant.data.report import DataReport, Problem
from pliant.data.voc_folders import find_voc_home

# SegmentationClassAug is where the further 9,118 label maps that train VOC 2012 (SBD) are commonly put.
_VOC_LABELS = ("SegmentationClass", "SegmentationClassAug")
_PLAIN = (("images", "labels"), ("images", "annotations"), ("images", "masks"))


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and the label map that goes with it, as the layout names them; neither need be there."""

    file_name: str
    image: Path
    labels: Path


@dataclass
class LabelSource:
    """One split: its classes by their value in the label maps, its images, how many it lists, the values ignored."""

    categories: list[Category]
    images: list[LabelledImage]
    listed: int
    ignored: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class LabelLayout:
    """A layout that was recognised: the splits there are, and the function that reads one of them."""

    splits: tuple[str, ...]
    read: Callable[[str, DataReport], LabelSource]


def read_labels(root: Path, split: str, report: DataReport) -> LabelSource:
    """Read `split` of whatever layout is at `root`.

    Raises:
        PliantError: no layout is recognised, the split is not there, or its classes are not named.
    """
    splits: list[str] = []
    for find in (_find_voc, _find_cityscapes, _find_plain):
        layout = find(root)
        if layout is not None and split in layout.splits:
            return layout.read(split, report)
        splits += layout.splits if layout else ()
    return refuse_split(root, split, splits) if splits else _refuse_layout(root, split)


def _find_voc(root: Path) -> LabelLayout | None:
    home = find_voc_home(root, "Segmentation")
    if home is None:
        return None
    lists = {path.stem: path for path in visible((home / "ImageSets" / "Segmentation").glob("*.txt"))}
    return LabelLayout(tuple(lists), lambda split, report: _read_voc(root, home, split, lists[split], report))


def _read_voc(root: Path, home: Path, split: str, file: Path, report: DataReport) -> LabelSource:
    own = read_class_names((root, home))
    categories = own or [Category(value, name) for value, name in enumerate(VOC_CLASSES)]
    images = files_by_stem(home / "JPEGImages", report)
    labels = {folder: files_by_stem(home / folder) for folder in _VOC_LABELS}
    found: dict[str, LabelledImage] = {}
    stems = [line for line in lines_of(file) if line]
    for stem in stems:
        if not is_plain_name(stem) or stem in found:
            report.add(Problem.REPEATED_IMAGE if stem in found else Problem.UNSAFE_NAME, stem)
            continue
        name = images.get(stem, [f"{stem}.jpg"])[0]
        maps = [home / folder / _map_of(files[stem]) for folder, files in labels.items() if stem in files]
        fallback = home / _VOC_LABELS[0] / f"{stem}.png"
        found[stem] = LabelledImage(name, home / "JPEGImages" / name, maps[0] if maps else fallback)
    return LabelSource(categories, list(found.values()), len(set(stems)))


def _map_of(names: list[str]) -> str:
    """Of files with one name the label map: a PNG if there is one."""
    return next((name for name in names if Path(name).suffix.lower() in SUFFIXES), names[0])


def _find_cityscapes(root: Path) -> LabelLayout | None:
    images, labels = root / "leftImg8bit", root / "gtFine"
    if not images.is_dir() or not labels.is_dir():
        return None
    splits = tuple(path.name for path in visible(images.iterdir()) if path.is_dir())
    return LabelLayout(splits, lambda split, report: _read_cityscapes(images / split, labels / split, report))


def _read_cityscapes(images: Path, labels: Path, report: DataReport) -> LabelSource:
    categories = [Category(value, name) for value, name in CITYSCAPES_CLASSES.items()]
    pairs = []
    for path in sorted(visible(images.glob("*/*_leftImg8bit.png"), report)):
        stem = path.name.removesuffix("_leftImg8bit.png")
        city = path.parent.name
        pairs.append(LabelledImage(f"{city}/{path.name}", path, labels / city / f"{stem}_gtFine_labelIds.png"))
    return LabelSource(categories, pairs, len(pairs), frozenset(CITYSCAPES_IDS) - CITYSCAPES_CLASSES.keys())


def _find_plain(root: Path) -> LabelLayout | None:
    """Find `images/{split}` and `labels/{split}`, or `{split}/images` and `{split}/labels`."""
    homes = {split: pair for images, labels in reversed(_PLAIN) for split, pair in _plain_splits(root, images, labels)}
    if not homes:
        return None
    return LabelLayout(tuple(homes), lambda split, report: _read_plain(root, *homes[split], report))


def _plain_splits(root: Path, images: str, labels: str) -> Iterator[tuple[str, tuple[Path, Path]]]:
    for path in visible(root.iterdir()):
        if (path / images).is_dir() and (path / labels).is_dir():
            yield path.name, (path / images, path / labels)
    if (root / images).is_dir() and (root / labels).is_dir():
        for path in visible((root / images).iterdir()):
            if path.is_dir():
                yield path.name, (path, root / labels / path.name)


def _read_plain(root: Path, images: Path, labels: Path, report: DataReport) -> LabelSource:
    categories = read_class_names((root,))
    if categories is None:
        fix = "write one name a line: line k, from 0, is the class of value k"
        fail(str(root), "must name its classes in classes.txt or classes.json", "neither", fix)
    maps = {Path(name).with_suffix(""): name for name in image_names(labels, suffixes=SUFFIXES)}
    pairs = []
    for name in sorted(image_names(images, report)):
        stem = Path(name).with_suffix("")
        pairs.append(LabelledImage(name, images / name, labels / maps.get(stem, f"{stem}.png")))
    return LabelSource(categories, pairs, len(pairs))


def _refuse_layout(root: Path, split: str) -> NoReturn:
    looked = (
        f"ImageSets/Segmentation/{split}.txt with JPEGImages and SegmentationClass, leftImg8bit/{split} with "
        f"gtFine/{split}, images/{split} with labels/{split}, {split}/images with {split}/labels"
    )
    refuse_layout(root, "must be a folder with label maps, in a known layout", looked)
