# SPDX-License-Identifier: Apache-2.0
"""The options of semantic segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import MOST_PIXELS, Options, option


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions(Options):
    """DeepLab's own parts, and how its training images are cut."""

    TITLE: ClassVar[str] = "semantic segmentation"
    ONLY: ClassVar[tuple[str, ...]] = ("segmentation",)

    output_stride: int = option(
        16, "pixels of the resized image for each cell of the scores: 16 (the paper) or 8", minimum=8
    )
    offset_dilation: Literal["official", "paper"] = option(
        "official",
        "dilation of the offset branches in dilated layers: official (1, as in the published code) or paper (the same)",
    )
    bias_lr_scale: float = option(
        1.0,
        "factor on the learning rate of the biases of fc6, score and the offset branches; 2 in the official code",
        minimum=0,
    )
    window: tuple[int, ...] | None = option(
        None,
        "train on random windows of this height and width in pixels, e.g. 768 1024; images then keep their own size, "
        "in evaluation too, and --min-size and --max-size are not read",
        minimum=16,
        maximum=MOST_PIXELS,
    )
    scale_range: tuple[float, ...] | None = option(
        None, "resize training images by a random factor from ... to ..., e.g. 0.5 2", minimum=0.01
    )
