# SPDX-License-Identifier: Apache-2.0
"""The objects' masks of Pascal VOC: label maps whose values number the objects of the image's xml file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor

from pliant.data.detection.masks import encode_masks
from pliant.data.images import UnreadableImageError, is_regular
from pliant.data.label_maps import read_label_map
from pliant.data.records import Source, SourceBox, SourceImage
from pliant.data.report import DataReport, Problem


def add_object_masks(source: Source, folder: Path, report: DataReport) -> None:
    """Give each box the mask that `folder` (`SegmentationObject`) has for it; leave out images without a label map.

    The n-th object of an image's xml file has the value n; 0 is background and 255 the void border around objects.
    """
    kept = []
    for image in source.images:
        path = folder / f"{image.path.stem}.png"
        if not is_regular(path):
            _leave_out(source, image, report, Problem.MISSING_LABELS, image.file_name)
            continue
        try:
            values = read_label_map(path)
        except UnreadableImageError as error:
            _leave_out(source, image, report, Problem.UNREADABLE_LABELS, f"{path.name}: {error}")
            continue
        source.boxes[image.id] = _with_masks(source.boxes.get(image.id, []), values)
        kept.append(image)
    source.images = kept


def _leave_out(source: Source, image: SourceImage, report: DataReport, problem: Problem, where: str) -> None:
    report.add(problem, where)
    report.lost[problem] += len(source.boxes.get(image.id, ()))


def _with_masks(boxes: list[SourceBox], values: Tensor) -> list[SourceBox]:
    """Return the boxes of an image, each with the pixels (H, W) of its number; with None if there are none."""
    given = []
    for number, box in enumerate(boxes, 1):
        pixels = values == number
        runs = encode_masks(pixels[None])[0] if number < 255 and bool(pixels.any()) else None
        segmentation = None if runs is None else {"size": list(values.shape), "counts": runs}
        given.append(dataclasses.replace(box, segmentation=segmentation))
    return given
