# SPDX-License-Identifier: Apache-2.0
"""`open_dataset`: recognise the layout of a folder, read one split, and check it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pliant.data.dataset import Category, DetectionDataset
from pliant.data.transforms import Transform


def open_dataset(
    root: Path | str,
    split: str = "train",
    *,
    categories: Sequence[Category] | None = None,
    transforms: Transform | None = None,
    strict: bool = False,
    verify: Literal["header", "pixels"] = "header",
    cache_bytes: int = 256 * 2**20,
    progress: Callable[[int, int], None] | None = None,
) -> DetectionDataset:
    """Open one split of a data set in COCO or Pascal VOC layout.

    strict: any problem is an error. verify: "header" opens every image and reads its size (fast), "pixels" decodes
    every image (use it for evaluation: broken images are then left out at once). cache_bytes: decoded images kept in
    memory, for each process. progress(done, total) is called while images are checked.
    """
    raise NotImplementedError
