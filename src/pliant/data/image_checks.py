# SPDX-License-Identifier: Apache-2.0
"""What is checked of an image of any task before training begins, and when too little of a split is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pliant._check import fail
from pliant.data.images import HugeImageError, UnreadableImageError, read_header, read_image
from pliant.data.records import Category, ImageInfo, Source, SourceImage
from pliant.data.report import DataReport, Problem

Verify = Literal["header", "pixels"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image that can be read, and whether its EXIF orientation is to be applied."""

    info: ImageInfo
    apply_exif: bool


def checked_image(image: SourceImage, report: DataReport, verify: Verify) -> CheckedImage | None:
    """Open an image and settle its size; None, and an entry in `report`, if it cannot be used."""
    if not image.path.is_file():
        report.add(Problem.MISSING_IMAGE, image.file_name)
        return None
    try:
        header = read_header(image.path)
        if verify == "pixels":
            read_image(image.path)
    except UnreadableImageError as error:
        problem = Problem.HUGE_IMAGE if isinstance(error, HugeImageError) else Problem.UNREADABLE_IMAGE
        report.add(problem, f"{image.file_name}: {error}")
        return None
    return _with_size(image, header.size, header.upright_size, report)


def _with_size(
    image: SourceImage, stored: tuple[int, int], upright: tuple[int, int], report: DataReport
) -> CheckedImage | None:
    """Settle the size, and whether the boxes were drawn on the upright or on the stored image."""
    if image.size is None:
        report.add(Problem.UNKNOWN_SIZE, f"{image.file_name}: {upright[0]}x{upright[1]}")
    elif image.size == upright:
        pass
    elif image.size == stored:
        report.add(Problem.TURNED_IMAGE, image.file_name)
        return CheckedImage(ImageInfo(image.id, image.file_name, image.path, *stored), apply_exif=False)
    else:
        says, has = (f"{width}x{height}" for width, height in (image.size, upright))
        report.add(Problem.WRONG_SIZE, f"{image.file_name}: has {has}, its annotation says {says}")
        return None
    return CheckedImage(ImageInfo(image.id, image.file_name, image.path, *upright), apply_exif=True)


def refuse_unusable(place: str, source: Source, known: Sequence[Category], report: DataReport, strict: bool) -> None:
    """Raise a `PliantError` if too little is left of a split, or, where `strict`, if anything is wrong with it."""
    lines = "; ".join(report.summary())
    if strict and report.count():
        fix = "correct the data or do without strict"
        fail(place, "must have no problems where strict=True", lines, fix)
    if source.listed == 0:
        fail(place, "must list images", "none", "give another split")
    if 2 * report.images < source.listed:
        rule = "must have at least half of its images in order"
        fail(place, rule, f"{report.images} of {source.listed}", lines)
    if report.count(Problem.MISSING_MASK, Problem.INVALID_MASK) and not report.boxes:
        rule = "must have masks, polygons or run lengths in COCO json or VOC's SegmentationObject"
        fix = "annotate them, or take a model without masks"
        fail(place, rule, lines, fix)
    if report.count(Problem.UNTRAINED_CATEGORY) and not report.boxes:
        names, has = (", ".join(repr(c.name) for c in some) for some in (known, source.categories))
        fix = "give the data of this model"
        fail(place, f"must have boxes of the categories of the model, {names}", has, fix)
