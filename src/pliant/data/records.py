# SPDX-License-Identifier: Apache-2.0
"""What a reader of a layout hands over: categories, images and boxes as the source has them, not yet checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Category:
    """A category as its source numbers it (COCO's ids may have gaps); a detector's labels are 1..C in this order."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image of a data set: the source's id and file name, where it lies, and its size in pixels."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image that the source lists; `size` is the (width, height) it states, if it states one."""

    id: int
    file_name: str
    path: Path
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class SourceBox:
    """A box as the source has it, with `corners` (x1, y1, x2, y2) in pixels, 0-based and half-open.

    `corners` is empty where the source has no four numbers, and `crowd` None where it says neither yes nor no. `where`
    is the place in its file, for the report. `segmentation` is what COCO json says of the object's mask, unchecked, or
    the same with bytes as `counts` where the reader coded it; None where masks are not asked for.
    """

    id: int
    category_id: int | None
    corners: tuple[float, ...]
    area: float | None
    crowd: bool | None
    where: str
    segmentation: object = None


@dataclass
class Source:
    """One split as its files say it; `listed` is how many images they list, in order or not."""

    categories: list[Category]
    images: list[SourceImage] = field(default_factory=list)
    boxes: dict[int, list[SourceBox]] = field(default_factory=dict)
    listed: int = 0
