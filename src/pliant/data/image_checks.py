# SPDX-License-Identifier: Apache-2.0
"""What is checked of an image of any task before training begins, and when too little of a split is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pliant._check import fail, fail_because
from pliant.data.images import HugeImageError, UnreadableImageError, is_regular, read_header, read_image
from pliant.data.records import Category, ImageInfo, SourceImage
from pliant.data.report import DataReport, Problem

Verify = Literal["header", "pixels"]
Progress = Callable[[int, int], None]

_SHOWN = 8  # categories that are named in an error


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image that can be read, and whether its EXIF orientation is to be applied."""

    info: ImageInfo
    apply_exif: bool


def checked_image(image: SourceImage, report: DataReport, verify: Verify) -> CheckedImage | Problem:
    """Open an image and settle its size; the problem, which is in `report` too, if it cannot be used."""
    if not is_regular(image.path):
        return _refused(report, Problem.MISSING_IMAGE, image.file_name)
    try:
        header = read_header(image.path)
        if verify == "pixels":
            read_image(image.path)
    except UnreadableImageError as error:
        problem = Problem.HUGE_IMAGE if isinstance(error, HugeImageError) else Problem.UNREADABLE_IMAGE
        return _refused(report, problem, f"{image.file_name}: {error}")
    return _with_size(image, header.size, header.upright_size, report)


def _refused(report: DataReport, problem: Problem, where: str) -> Problem:
    report.add(problem, where)
    return problem


def _with_size(
    image: SourceImage, stored: tuple[int, int], upright: tuple[int, int], report: DataReport
) -> CheckedImage | Problem:
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
        return _refused(report, Problem.WRONG_SIZE, f"{image.file_name}: has {has}, its annotation says {says}")
    return CheckedImage(ImageInfo(image.id, image.file_name, image.path, *upright), apply_exif=True)


def refuse_unusable(place: str, listed: int, report: DataReport, *, strict: bool) -> None:
    """Raise a `PliantError` if too few images are left of a split, or, where `strict`, if anything is wrong with it."""
    lines = "; ".join(report.summary())
    if strict and report.count():
        fail(place, "must have no problems where strict=True", lines, "correct the data or do without strict")
    if listed == 0:
        fail(place, "must list images", "none", "give another split")
    if 2 * report.images < listed:
        fail(place, "must have at least half of its images in order", f"{report.images} of {listed}", lines)


def refuse_few(place: str, things: str, left: int, lost: Mapping[Problem, int]) -> None:
    """Raise a `PliantError` if fewer than half of the listed objects are left to learn from: the rule of all readers.

    Args:
        place: the split.
        things: what the objects are: boxes, pixels, images.
        left: how many are left.
        lost: how many are not, by the reason; those of categories that a model does not know were not to be learned.
    """
    foreign = (Problem.UNTRAINED_CATEGORY, Problem.UNTRAINED_CLASS)
    reasons = {problem: count for problem, count in lost.items() if problem not in foreign and count}
    listed = left + sum(reasons.values())
    rule = f"must have {things} to learn from, and lose fewer than half of them"
    if not listed:
        fail_because(place, rule, f"it lists no {things}", "annotate it, or give another split")
    if not left or 2 * left < listed:
        problem = max(reasons, key=reasons.__getitem__)
        got = f"{left} of {listed}; most of the others are {problem.text} ({reasons[problem]})"
        fail(place, rule, got, "correct the data")


def shown_names(categories: Sequence[Category]) -> str:
    """Return the first names of some categories, as messages show them."""
    names = ", ".join(repr(category.name) for category in categories[:_SHOWN])
    return names + (f" and {len(categories) - _SHOWN} more" if len(categories) > _SHOWN else "")
