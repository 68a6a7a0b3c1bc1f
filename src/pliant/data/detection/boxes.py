# SPDX-License-Identifier: Apache-2.0
"""From what a source says to what can be trained on: every image opened, every box checked, every loss reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.data.detection.masks import BadMaskError, encode_segmentation, mask_area
from pliant.data.image_checks import CheckedImage, Progress, Verify, checked_image
from pliant.data.records import Category, ImageInfo, Source, SourceBox
from pliant.data.report import DataReport, Problem

# Pixels of all masks of an image together, a byte each when it is read: 2,000 objects of a megapixel.
_MAX_MASK_PIXELS = 2**31

# Boxes written as x, y, width, height with rounded decimals end a little outside; that is no finding.
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
        if checked and not (masks and _has_huge_masks(checked.info, source, report)):
            images.append(checked)
        if progress:
            progress(done, len(source.images))
    table = _box_table(images, source, _labels(source.categories, categories), report, masks)
    _count(report, table)
    return images, table


def _labels(source: Sequence[Category], known: Sequence[Category]) -> dict[int, int | None]:
    """Map the source's category ids to labels 1..C of `known`: by name, and by id where names repeat."""
    labels: dict[int, int | None] = {}
    for category in source:
        same = [(label, other.id) for label, other in enumerate(known, 1) if other.name == category.name]
        exact = [label for label, other_id in same if other_id == category.id]
        labels[category.id] = exact[0] if exact else same[0][0] if same else None
    return labels


def _box_table(
    images: Sequence[CheckedImage], source: Source, labels: dict[int, int | None], report: DataReport, masks: bool
) -> BoxTable:
    names = {category.id: category.name for category in source.categories}
    starts, kept, runs = [0], [], []
    for image in images:
        for box in source.boxes.get(image.info.id, ()):
            place = f"{image.info.file_name}, {box.where}"
            if box.category_id not in labels:
                report.add(Problem.UNKNOWN_CATEGORY, f"{place}: category {box.category_id!r}")
            elif (label := labels[box.category_id]) is None:
                report.add(Problem.UNTRAINED_CATEGORY, f"{place}: {names[box.category_id]!r}")
            elif corners := _checked_corners(box, image.info, place, report):
                mask = _checked_mask(box, image.info, place, report) if masks else None
                if masks and mask is None:
                    continue
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


def _checked_corners(box: SourceBox, info: ImageInfo, place: str, report: DataReport) -> tuple[float, ...] | None:
    if len(box.corners) != 4 or not all(map(math.isfinite, box.corners)):
        report.add(Problem.INVALID_BOX, place)
        return None
    x1, y1, x2, y2 = box.corners
    if x2 <= x1 or y2 <= y1:
        report.add(Problem.EMPTY_BOX, f"{place}: {x2 - x1:g}x{y2 - y1:g}")
        return None
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(info.width)), min(y2, float(info.height)))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        report.add(Problem.OUTSIDE_BOX, place)
        return None
    beyond = max(abs(a - b) for a, b in zip(inside, box.corners, strict=True))
    if beyond > _ROUNDING:
        report.add(Problem.CLIPPED_BOX, f"{place}: {beyond:.4g} pixels beyond")
    return inside


def _has_huge_masks(info: ImageInfo, source: Source, report: DataReport) -> bool:
    """Say, and report, whether the masks of an image would fill the memory; a small file can claim any number."""
    count = len(source.boxes.get(info.id, ()))
    if count * info.width * info.height <= _MAX_MASK_PIXELS:
        return False
    report.add(Problem.HUGE_MASKS, f"{info.file_name}: {count} masks of {info.width}x{info.height}")
    return True


def _checked_mask(box: SourceBox, info: ImageInfo, place: str, report: DataReport) -> bytes | None:
    """Return a box's mask as compressed run lengths; None, and an entry in `report`, if it has none."""
    if not box.segmentation:
        report.add(Problem.MISSING_MASK, place)
        return None
    try:
        return encode_segmentation(box.segmentation, info.height, info.width)
    except BadMaskError as error:
        report.add(Problem.INVALID_MASK, f"{place}: {error}")
        return None


def _area(box: SourceBox, corners: tuple[float, ...], mask: bytes | None, info: ImageInfo) -> float:
    """Return the source's area, which for COCO is that of the mask; else that of the mask; else that of the box."""
    if box.area is not None and math.isfinite(box.area) and box.area > 0:
        return box.area
    if mask is not None:
        return mask_area(mask, info.height, info.width)
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _count(report: DataReport, table: BoxTable) -> None:
    report.images = len(table.starts) - 1
    report.boxes = len(table.labels)
    report.crowd_boxes = int(table.crowd.sum())
    report.empty_images = int((table.starts.diff() == 0).sum())
