# SPDX-License-Identifier: Apache-2.0
"""`open_segmentation`: recognise the layout of a folder, read one split, and check it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pliant._check import fail
from pliant._labels import IGNORE
from pliant.data.image_checks import (
    CheckedImage,
    Progress,
    Verify,
    checked_image,
    refuse_few,
    refuse_unusable,
    shown_names,
)
from pliant.data.image_dataset import OpenedSplit
from pliant.data.images import UnreadableImageError, is_regular
from pliant.data.label_maps import LabelTable, read_label_map, read_label_size
from pliant.data.records import Category, SourceImage
from pliant.data.refusals import check_folder
from pliant.data.report import DataReport, Problem
from pliant.data.segmentation.dataset import SegmentationDataset
from pliant.data.segmentation.layouts import LabelledImage, LabelSource, read_labels
from pliant.data.transforms import Transform

# At most how many label maps are looked into when a split is opened, until every class was seen.
_PROBES = 200


def open_segmentation(
    root: Path | str,
    split: str = "train",
    *,
    categories: Sequence[Category] | None = None,
    transforms: Transform | None = None,
    strict: bool = False,
    verify: Verify = "header",
    cache_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> SegmentationDataset:
    r"""Open one split of images with label maps, and check them.

    Recognised are Pascal VOC (`ImageSets/Segmentation/{split}.txt`, `JPEGImages`, `SegmentationClass` and, where
    there is one, `SegmentationClassAug`; also inside `VOCdevkit/VOC2012`), Cityscapes (`leftImg8bit/{split}/CITY`
    with `gtFine/{split}/CITY/*_labelIds.png`, read as its 19 classes), and pairs of folders (`images/{split}` and
    `labels/{split}`, or `{split}/images` and `{split}/labels`). Classes are named by `classes.txt` or `classes.json`
    in the folder; a VOC folder without one has VOC's 20 and the background. What is wrong is counted and named in
    `report` of the result; docs/data.md says what is checked.

    Args:
        root: the folder.
        split: the part to read, "train" for instance.
        categories: those of a trained model, which labels then follow, by name; None takes them from the data.
        transforms: applied to image and target, see `segmentation_transforms` and `eval_transforms`.
        strict: make any problem an error.
        verify: "header" opens every file and reads its size, "pixels" decodes everything.
        cache_bytes: size of the decoded images kept in memory, for each process; 0 keeps none.
        progress: called as `progress(done, total)` while images are checked.

    Raises:
        PliantError: the layout, the split or the names of the classes are not there; fewer than half of the images are
            in order; of the pixels in up to 200 label maps fewer than half have a class, or, where `categories` is
            None, all have the same; or, with `strict`, anything is wrong.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for folder, mode in (("images", "RGB"), ("labels", "L")):
        ...     (root / folder / "train").mkdir(parents=True)
        ...     image = Image.new(mode, (4, 3), 1 if mode == "L" else "red")
        ...     image.paste(0, (0, 0, 2, 3))
        ...     image.save(root / folder / "train" / "a.png")
        >>> _ = (root / "classes.txt").write_text("background\ntree\n")
        >>> image, target = open_segmentation(root)[0]
        >>> tuple(image.shape), target["labels_map"].unique().tolist()
        ((3, 3, 4), [0, 1])
    """
    root = Path(root)
    check_folder(root)
    report = DataReport()
    source = read_labels(root, split, report)
    known = source.categories if categories is None else list(categories)
    place = f"{root}, split {split!r}"
    table = _label_table(place, source, known, report)
    images, labels = _check_pairs(source.images, report, verify, progress)
    report.images = len(images)
    refuse_unusable(place, source.listed, report, strict=strict)
    opened = OpenedSplit(root, split, known, report, transforms, strict, cache_bytes)
    dataset = SegmentationDataset(opened, images, labels, table)
    _look_into(place, dataset, report, alone=categories is None)
    return dataset


def _label_table(place: str, source: LabelSource, known: Sequence[Category], report: DataReport) -> LabelTable:
    labels = dict.fromkeys(source.ignored, IGNORE)
    place_of = {category.name: label for label, category in enumerate(known)}
    for category in source.categories:
        labels[category.id] = place_of.get(category.name, IGNORE)
        if category.name not in place_of:
            report.add(Problem.UNTRAINED_CLASS, category.name)
    if all(label == IGNORE for label in labels.values()):
        rule = f"must have classes of the model, {shown_names(known)}"
        fail(place, rule, shown_names(source.categories), "give the data of this model")
    return LabelTable(labels)


def _check_pairs(
    pairs: Sequence[LabelledImage], report: DataReport, verify: Verify, progress: Progress | None
) -> tuple[list[CheckedImage], list[Path]]:
    images, labels = [], []
    for number, pair in enumerate(pairs, 1):
        checked = _checked_pair(pair, number, report, verify)
        if isinstance(checked, CheckedImage):
            images.append(checked)
            labels.append(pair.labels)
        if progress:
            progress(number, len(pairs))
    return images, labels


def _checked_pair(pair: LabelledImage, number: int, report: DataReport, verify: Verify) -> CheckedImage | Problem:
    if not is_regular(pair.labels):
        report.add(Problem.MISSING_LABELS, f"{pair.file_name}: no {pair.labels.name}")
        return Problem.MISSING_LABELS
    try:
        size = read_label_size(pair.labels)
        if verify == "pixels":
            read_label_map(pair.labels)
    except UnreadableImageError as error:
        report.add(Problem.UNREADABLE_LABELS, f"{pair.labels.name}: {error}")
        return Problem.UNREADABLE_LABELS
    return checked_image(SourceImage(number, pair.file_name, pair.image, size), report, verify)


def _look_into(place: str, dataset: SegmentationDataset, report: DataReport, *, alone: bool) -> None:
    """Count the pixels of each class in some label maps; refuse those that nothing can be learned from.

    Where the classes are the data's own (`alone`), those without a pixel are named, and one class is too few: calling
    every pixel by it would be right everywhere.
    """
    classes = len(dataset.categories)
    counts, unknown = torch.zeros(classes, dtype=torch.int64), 0
    for index in range(0, len(dataset), max(1, len(dataset) // _PROBES)):
        try:
            found, other = dataset.pixels_of_classes(index)
        except UnreadableImageError:
            continue
        counts, unknown = counts + found, unknown + other
        if counts.all():
            break
    things = f"pixels of its classes ({shown_names(dataset.categories)})"
    refuse_few(place, things, int(counts.sum()), {Problem.UNKNOWN_LABELS: unknown})
    empty = [category.name for category, count in zip(dataset.categories, counts.tolist(), strict=True) if not count]
    if alone and classes - len(empty) < 2:
        got = f"{classes - len(empty)}; 255 is no class but what is ignored"
        fix = "write the value of its class into each pixel, as classes.txt or classes.json numbers them"
        fail(place, f"must have pixels of two classes at least, of {shown_names(dataset.categories)}", got, fix)
    for name in empty if alone else ():
        report.add(Problem.UNSEEN_CLASS, name)
