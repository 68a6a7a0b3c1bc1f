# SPDX-License-Identifier: Apache-2.0
"""From what a source says to what can be trained on: every image opened, every box checked, every loss reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant._check import counted
from pliant.data.detection.masks import BadMaskError, encode_segmentation, good_parts, mask_area, mask_corners
from pliant.data.image_checks import CheckedImage, Progress, Verify, checked_image
from pliant.data.records import Category, ImageInfo, Source, SourceBox
from pliant.data.report import DataReport, Problem

# Pixels of all masks of an image together, a byte each when it is read: 1,000 objects of a megapixel.
_MAX_MASK_PIXELS = 2**30
# Narrower boxes lose their area in float32 when a wide image is mirrored or resized.
_LEAST_SIDE = 1 / 16

# Boxes written as x, y, width, height with rounded decimals end a little outside; that is not reported.
_ROUNDING = 1e-2


@dataclass(frozen=True)
class BoxTable:
    """The boxes of all images in a few tensors, which worker processes share; `rows(i)` are those of image i.

    `masks` are the objects' compressed run lengths, in the same rows; None where masks were not asked for.
    """

    starts: Tensor  # (N + 1,) int64
    corners: Tensor  # (M, 4) float64, x1 y1 x2 y2
    labels: Tensor  # (M,) int64, 1..C
    areas: Tensor  # (M,) float64
    crowd: Tensor  # (M,) uint8
    ids: Tensor  # (M,) int64
    masks: tuple[bytes, ...] | None = None

    def rows(self, index: int) -> slice:
        """Return the rows of image `index`."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))


def check_source(
    source: Source,
    categories: Sequence[Category],
    report: DataReport,
    verify: Verify,
    progress: Progress | None,
    *,
    masks: bool = False,
) -> tuple[list[CheckedImage], BoxTable]:
    """Check every image and box of `source`, and every mask if asked; what is left is returned, the rest reported."""
    images = []
    for done, image in enumerate(source.images, 1):
        checked = checked_image(image, report, verify)
        if isinstance(checked, CheckedImage) and masks and _has_huge_masks(checked.info, source, report):
            checked = Problem.HUGE_MASKS
        if isinstance(checked, CheckedImage):
            images.append(checked)
        else:
            report.lost[checked] += len(source.boxes.get(image.id, ()))
        if progress:
            progress(done, len(source.images))
    table = _box_table(images, source, _labels(source.categories, categories), report, masks)
    _count(report, table)
    return images, table


def _labels(source: Sequence[Category], known: Sequence[Category]) -> dict[int, int | None]:
    """Map the source's category ids to labels 1..C of `known`: by name, and by id where names repeat."""
    same: dict[str, dict[int, int]] = {}
    for label, category in enumerate(known, 1):
        same.setdefault(category.name, {})[category.id] = label
    labels: dict[int, int | None] = {}
    for category in source:
        by_id = same.get(category.name, {})
        labels[category.id] = by_id.get(category.id, next(iter(by_id.values()), None))
    return labels


def _box_table(
    images: Sequence[CheckedImage], source: Source, labels: dict[int, int | None], report: DataReport, masks: bool
) -> BoxTable:
    names = {category.id: category.name for category in source.categories}
    starts, kept, runs = [0], [], []
    for image in images:
        for box in source.boxes.get(image.info.id, ()):
            place = f"{image.info.file_name}, {box.where}"
            label = _checked_label(box, labels, names, place, report)
            mask = _checked_mask(box, image.info, place, report) if masks and label is not None else None
            if label is None or (masks and mask is None):
                continue
            corners = _checked_corners(_with_box(box, mask, image.info, place, report), image.info, place, report)
            if corners:
                kept.append((corners, label, _area(box, corners, mask, image.info), box.crowd, box.id))
                runs += [mask] if mask is not None else []
        starts.append(len(kept))
    return BoxTable(
        starts=torch.tensor(starts, dtype=torch.int64),
        corners=torch.tensor([row[0] for row in kept], dtype=torch.float64).reshape(-1, 4),
        labels=torch.tensor([row[1] for row in kept], dtype=torch.int64),
        areas=torch.tensor([row[2] for row in kept], dtype=torch.float64),
        crowd=torch.tensor([row[3] for row in kept], dtype=torch.uint8),
        ids=torch.tensor([row[4] for row in kept], dtype=torch.int64),
        masks=tuple(runs) if masks else None,
    )


def _checked_label(
    box: SourceBox, labels: dict[int, int | None], names: dict[int, str], place: str, report: DataReport
) -> int | None:
    if box.category_id is None or box.category_id not in labels:
        report.lose(Problem.UNKNOWN_CATEGORY, f"{place}: category {box.category_id!r}")
    elif (label := labels[box.category_id]) is None:
        report.lose(Problem.UNTRAINED_CATEGORY, f"{place}: {names[box.category_id]!r}")
    elif box.crowd is None:
        report.lose(Problem.INVALID_CROWD, place)
    else:
        return label
    return None


def _with_box(box: SourceBox, mask: bytes | None, info: ImageInfo, place: str, report: DataReport) -> tuple[float, ...]:
    """Return the corners of a box; those of its mask where it states none."""
    if box.corners or mask is None:
        return box.corners
    report.add(Problem.BOX_FROM_MASK, place)
    return mask_corners(mask, info.height, info.width)


def _checked_corners(
    corners: tuple[float, ...], info: ImageInfo, place: str, report: DataReport
) -> tuple[float, ...] | None:
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        report.lose(Problem.INVALID_BOX, place)
        return None
    x1, y1, x2, y2 = corners
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(info.width)), min(y2, float(info.height)))
    if x2 <= x1 or y2 <= y1:
        report.lose(Problem.EMPTY_BOX, f"{place}: {x2 - x1:g}x{y2 - y1:g}")
    elif inside[2] <= inside[0] or inside[3] <= inside[1]:
        report.lose(Problem.OUTSIDE_BOX, place)
    elif _is_normalised(corners) and min(info.width, info.height) > 2:
        report.lose(Problem.NORMALISED_BOX, place)
    elif min(inside[2] - inside[0], inside[3] - inside[1]) < _LEAST_SIDE:
        report.lose(Problem.TINY_BOX, f"{place}: {x2 - x1:g}x{y2 - y1:g}")
    else:
        beyond = max(abs(a - b) for a, b in zip(inside, corners, strict=True))
        if beyond > _ROUNDING:
            report.add(Problem.CLIPPED_BOX, f"{place}: {beyond:.4g} pixels beyond")
        return inside
    return None


def _is_normalised(corners: tuple[float, ...]) -> bool:
    """Say whether a box has numbers from 0 to 1 alone, as corners or as corner and size: in pixels it would be tiny."""
    x1, y1, x2, y2 = corners
    return max(x2, y2) <= 1 or (min(x1, y1) >= 0 and max(x1, y1, x2 - x1, y2 - y1) <= 1)


def _has_huge_masks(info: ImageInfo, source: Source, report: DataReport) -> bool:
    """Say, and report, whether the masks of an image would fill the memory; a small file can claim any number."""
    count = len(source.boxes.get(info.id, ()))
    if count * info.width * info.height <= _MAX_MASK_PIXELS:
        return False
    report.add(Problem.HUGE_MASKS, f"{info.file_name}: {counted(count, 'mask')} of {info.width}x{info.height}")
    return True


def _checked_mask(box: SourceBox, info: ImageInfo, place: str, report: DataReport) -> bytes | None:
    """Return a box's mask as compressed run lengths; None, and an entry in `report`, if it has none."""
    if not box.segmentation:
        report.lose(Problem.MISSING_MASK, place)
        return None
    try:
        segmentation, bad = good_parts(box.segmentation, info.height, info.width)
        if bad:
            report.add(Problem.INVALID_PART, f"{place}: {bad}")
        return encode_segmentation(segmentation, info.height, info.width)
    except BadMaskError as error:
        report.lose(Problem.INVALID_MASK, f"{place}: {error}")
        return None


def _area(box: SourceBox, corners: tuple[float, ...], mask: bytes | None, info: ImageInfo) -> float:
    """Return the source's area, which for COCO is that of the mask; else that of the mask; else that of the box."""
    if box.area is not None and 0 < box.area <= info.width * info.height:
        return box.area
    if mask is not None:
        return mask_area(mask, info.height, info.width)
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _count(report: DataReport, table: BoxTable) -> None:
    report.images = len(table.starts) - 1
    report.boxes = len(table.labels)
    report.crowd_boxes = int(table.crowd.sum())
    report.empty_images = int((table.starts.diff() == 0).sum())
    report.lost[Problem.CROWD] += report.crowd_boxes
