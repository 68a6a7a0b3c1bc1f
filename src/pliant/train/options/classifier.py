# SPDX-License-Identifier: Apache-2.0
"""The options of image classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pliant.train.options.fields import MOST_PIXELS, Options, option


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(Options):
    """Sizes of images, and what is done to labels."""

    TITLE: ClassVar[str] = "classification"
    ONLY: ClassVar[tuple[str, ...]] = ("classification",)

    resize_size: int = option(
        256, "short side in pixels that images are resized to in evaluation", minimum=1, maximum=MOST_PIXELS
    )
    crop_size: int = option(
        224,
        "side in pixels of the square that training images become and that is cut out in evaluation",
        minimum=1,
        maximum=MOST_PIXELS,
    )
    crop_area: tuple[float, ...] = option(
        (0.08, 1.0), "share of the image's area that a training crop has, from ... to ...", minimum=0
    )
    label_smoothing: float = option(0.0, "share of a label's weight spread over all classes, 0..1", minimum=0)
