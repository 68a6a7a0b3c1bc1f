# SPDX-License-Identifier: Apache-2.0
"""`open_detection`: recognise the layout of a folder, read one split, and check it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pliant._check import fail
from pliant.data.detection.boxes import check_source
from pliant.data.detection.coco import coco_splits, match_split, read_coco
from pliant.data.detection.dataset import DetectionDataset
from pliant.data.detection.voc import find_voc, read_voc
from pliant.data.image_checks import Progress, Verify, refuse_few, refuse_unusable, shown_names
from pliant.data.image_dataset import OpenedSplit
from pliant.data.records import Category, Source
from pliant.data.refusals import check_folder, refuse_layout, refuse_split
from pliant.data.report import DataReport, Problem
from pliant.data.transforms import Transform


def open_detection(
    root: Path | str,
    split: str = "train",
    *,
    categories: Sequence[Category] | None = None,
    transforms: Transform | None = None,
    masks: bool = False,
    strict: bool = False,
    verify: Verify = "header",
    cache_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> DetectionDataset:
    """Open one split of a folder in COCO or Pascal VOC layout, and check its images and boxes.

    Recognised are COCO json (`annotations/instances_{split}.json`, with or without a year, `annotations/{split}.json`,
    `{split}.json`, `{split}/_annotations.coco.json`) and Pascal VOC (`Annotations`, `JPEGImages`, `ImageSets/Main`,
    also inside `VOCdevkit/VOC2007`, or xml files beside the images in `{split}`). docs/data.md says where images are
    looked for and what is checked. What is wrong is counted and named in `report` of the result.

    Args:
        root: the folder.
        split: the part to read, "train" for instance.
        categories: those of a trained model, which labels then follow, by name; None takes them from the data.
        transforms: applied to image and target, see `detection_transforms` and `eval_transforms`.
        masks: read the objects' masks too, polygons and run lengths of COCO json or VOC's `SegmentationObject`, for
            the images listed in `ImageSets/Segmentation`; a box without a mask is left out,
            and a mask without a box gives it.
        strict: make any problem an error.
        verify: "header" opens every image and reads its size; "pixels" decodes every image too, so that broken ones
            are left out at once and not replaced later: right for evaluation.
        cache_bytes: size of the decoded images kept in memory, for each process; 0 keeps none.
        progress: called as `progress(done, total)` while images are checked.

    Raises:
        PliantError: the layout or the split is not there; a file of annotations is broken; fewer than half of the
            images are in order, or of the boxes left to learn from; no box has one of `categories`; or, with `strict`,
            anything is wrong.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (40, 30)).save(root / "a.png")
        >>> _ = (root / "train.json").write_text(
        ...     '{"images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],'
        ...     ' "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [2, 3, 10, 20]}],'
        ...     ' "categories": [{"id": 5, "name": "tree"}]}')
        >>> dataset = open_detection(root, "train")
        >>> image, target = dataset[0]
        >>> tuple(image.shape), target["boxes"].tolist(), target["labels"].tolist(), dataset.report.summary()
        ((3, 30, 40), [[2.0, 3.0, 12.0, 23.0]], [1], ['no problems'])
    """
    root = Path(root)
    check_folder(root)
    if verify not in ("header", "pixels"):
        fail("verify", "must be 'header' or 'pixels'", repr(verify), "use one of them")
    report = DataReport()
    source = _read(root, split, report, needs_all_names=categories is None, masks=masks)
    known = source.categories if categories is None else list(categories)
    images, boxes = check_source(source, known, report, verify, progress, masks=masks)
    place = f"{root}, split {split!r}"
    refuse_unusable(place, source.listed, report, strict=strict)
    _refuse_other_data(place, source.categories, known, report)
    refuse_few(place, "boxes", report.boxes - report.crowd_boxes, report.lost)
    opened = OpenedSplit(root, split, known, report, transforms, strict, cache_bytes)
    return DetectionDataset(opened, images, boxes)


def _refuse_other_data(place: str, has: Sequence[Category], known: Sequence[Category], report: DataReport) -> None:
    """Refuse data of another model: without masks where it needs them, or without one of its categories."""
    if report.boxes:
        return
    lines = "; ".join(report.summary())
    if report.count(Problem.MISSING_MASK, Problem.INVALID_MASK):
        rule = "must have masks, polygons or run lengths in COCO json or VOC's SegmentationObject"
        fail(place, rule, lines, "annotate them, or take a model without masks")
    if report.count(Problem.UNTRAINED_CATEGORY):
        rule = f"must have boxes of the categories of the model, {shown_names(known)}"
        fail(place, rule, shown_names(has), "give the data of this model")


def _read(root: Path, split: str, report: DataReport, *, needs_all_names: bool, masks: bool) -> Source:
    """Read `split` in whatever layout it is there."""
    coco = coco_splits(root)
    name = match_split(coco, split)
    if name is not None:
        return read_coco(root, split, name, coco[name], report, masks=masks)
    voc = find_voc(root, split, "Segmentation" if masks else "Main")
    if voc is not None and split in voc.splits:
        return read_voc(voc, split, report, needs_all_names=needs_all_names, masks=masks)
    splits = [*coco, *(voc.splits if voc else ())]
    return refuse_split(root, split, splits) if splits else _refuse_layout(root, split)


def _refuse_layout(root: Path, split: str) -> NoReturn:
    looked = (
        f"annotations/instances_{split}.json, annotations/{split}.json, {split}.json, {split}/_annotations.coco.json, "
        f"ImageSets/Main/{split}.txt with Annotations and JPEGImages, {split}/*.xml"
    )
    refuse_layout(root, "must be a folder in COCO or Pascal VOC layout", looked)
