# SPDX-License-Identifier: Apache-2.0
"""What is read, and how training images are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pliant.train.options.fields import MOST_PIXELS, Options, option


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """The data set, and its splits."""

    TITLE: ClassVar[str] = "data"

    data: str = option(
        help="folder of the data set, its layout recognised. Detection: COCO json or Pascal VOC. Segmentation: Pascal "
        "VOC, Cityscapes, or images/SPLIT with labels/SPLIT. Classification: SPLIT/CLASS/IMAGE"
    )
    split: str = option("train", "split to train on")
    val_split: str | None = option("val", "split to evaluate on during training; 'none' never evaluates")


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions(Options):
    """The size that images are resized to inside the model, and how training images are varied before."""

    TITLE: ClassVar[str] = "image size and augmentation"

    min_size: tuple[int, ...] = option(
        (800,),
        "short side of the resized image in pixels; several: one at random in training, the last in evaluation",
        minimum=32,
        maximum=MOST_PIXELS,
        only=("resized",),
    )
    max_size: int = option(
        1333,
        "limit of the long side of the resized image, in pixels",
        minimum=32,
        maximum=MOST_PIXELS,
        only=("resized",),
    )
    crop: int | None = option(
        None,
        "train on random square crops of so many pixels of the original image",
        minimum=32,
        maximum=MOST_PIXELS,
        only=("detection",),
    )
    flip: float = option(0.5, "chance of a horizontal flip, 0..1", minimum=0)
    vertical_flip: float = option(0.0, "chance of a vertical flip, 0..1", minimum=0)
    rotate: float = option(0.0, "turn by a random angle of at most so many degrees", minimum=0, only=("rotated",))
    rotate90: bool = option(False, "rotate by a random multiple of 90 degrees (aerial and microscope images)")
    photometric: bool = option(False, "vary brightness, contrast, saturation and hue at random")
