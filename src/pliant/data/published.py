# SPDX-License-Identifier: Apache-2.0
"""The categories behind the labels of published checkpoints, by their number."""

from __future__ import annotations

from pliant.data.class_names import CITYSCAPES_CLASSES, VOC_CLASSES
from pliant.data.records import Category


def published_categories(labels: int, *, background: bool = False) -> list[Category]:
    """Return the categories of a model with so many labels.

    80 and 90 are COCO's (90: as torchvision counts them, with ten numbers that COCO does not use), 20 and 21 (with the
    background) Pascal VOC's, 19 with `background` Cityscapes'; for any other number the names are `class 1`, ...

    Args:
        labels: how many; label 0 among them if `background`.
        background: whether label 0 is a category, as in segmentation.

    Example:
        >>> published_categories(80)[11], published_categories(2)[0]
        (Category(id=13, name='stop sign'), Category(id=1, name='class 1'))
    """
    if background:
        known = {21: dict(enumerate(VOC_CLASSES)), 19: CITYSCAPES_CLASSES}
        names = known.get(labels) or {number: f"class {number}" for number in range(labels)}
    elif labels in (80, 90):
        names = _coco(every_number=labels == 90)
    elif labels == 20:
        names = dict(list(enumerate(VOC_CLASSES))[1:])
    else:
        names = {number: f"class {number}" for number in range(1, labels + 1)}
    return [Category(number, name) for number, name in names.items()]


def _coco(*, every_number: bool) -> dict[int, str]:
    """COCO's names by number, as torchvision's weights carry them."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = dict(enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]))
    del names[0]  # the background
    unused = {number for number, name in names.items() if name == "N/A"}
    if every_number:
        return {number: f"unused {number}" if number in unused else name for number, name in names.items()}
    return {number: name for number, name in names.items() if number not in unused}
