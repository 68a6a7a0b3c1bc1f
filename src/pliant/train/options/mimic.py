# SPDX-License-Identifier: Apache-2.0
"""R-CNN feature mimicking; see `pliant.detection.MimicOptions` and docs/mimicking.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import MOST_PIXELS, Options, option


@dataclass(frozen=True, kw_only=True)
class MimickingOptions(Options):
    """The branch on crops, and what of it the paper leaves open."""

    TITLE: ClassVar[str] = "R-CNN feature mimicking (DCNv2)"
    ONLY: ClassVar[tuple[str, ...]] = ("fc head",)

    mimic: bool = option(False, "train with the branch; predictions are made without it")
    mimic_weight: float = option(0.1, "factor of the mimicking loss", minimum=0)
    mimic_classifier_weight: float = option(0.1, "factor of the branch's classification loss", minimum=0)
    mimic_boxes: Literal["foreground", "background", "all"] = option(
        "foreground", "which sampled proposals are cropped"
    )
    mimic_boxes_per_image: int = option(32, "most crops of an image", minimum=1, maximum=4096)
    mimic_crop_size: int = option(224, "side of a crop in pixels; a multiple of 32", minimum=64, maximum=MOST_PIXELS)
    mimic_iou: float = option(0.5, "overlap with a box from which a proposal is foreground", minimum=0.01)
    mimic_ground_truth: bool = option(True, "draw from the ground-truth boxes too, which are among the proposals")
    mimic_too_few: Literal["fewer", "repeat"] = option(
        "fewer", "with fewer boxes than that: fewer crops, or some repeated"
    )
    mimic_interpolation: Literal["bilinear", "area"] = option(
        "bilinear", "one sample for each pixel of a crop, or the mean over its area"
    )
    mimic_stop_gradient: bool = option(False, "the mimicking loss changes the detector's features alone")
    mimic_feature: Literal["after_relu", "before_relu"] = option("after_relu", "the second fc layer's output")
    mimic_reduction: Literal["image", "sum", "mean"] = option(
        "image", "sum over an image's boxes; sum over the batch; mean over boxes"
    )
    mimic_chunk: int | None = option(
        None, "crops in one pass of the backbone, computed again going backward, to save memory", minimum=1
    )
