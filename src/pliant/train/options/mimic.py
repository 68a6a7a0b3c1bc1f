# SPDX-License-Identifier: Apache-2.0
"""R-CNN feature mimicking; see `pliant.detection.MimicOptions` and docs/mimicking.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pliant.train.options.fields import Options, option


@dataclass(frozen=True, kw_only=True)
class MimickingOptions(Options):
    """The branch on crops, and what of it the paper leaves open."""

    TITLE: ClassVar[str] = "R-CNN feature mimicking (DCNv2)"
    ONLY: ClassVar[tuple[str, ...]] = ("faster-rcnn", "faster-rcnn-dc5", "mask-rcnn", "mask-rcnn-dc5")

    mimic: bool = option(False, "train with the branch; predictions are made without it")
    mimic_weight: float = option(0.1, "factor of the mimicking loss", minimum=0)
    mimic_classifier_weight: float = option(0.1, "factor of the branch's classification loss", minimum=0)
    mimic_boxes: str = option(
        "foreground", "which sampled proposals are cropped", choices=("foreground", "background", "all")
    )
    mimic_boxes_per_image: int = option(32, "most crops of an image", minimum=1)
    mimic_crop_size: int = option(224, "side of a crop in pixels; a multiple of 32", minimum=64)
    mimic_iou: float = option(0.5, "overlap with a box from which a proposal is foreground", minimum=0.01)
    mimic_ground_truth: bool = option(True, "draw from the ground-truth boxes too, which are among the proposals")
    mimic_too_few: str = option(
        "fewer", "with fewer boxes than that: fewer crops, or some repeated", choices=("fewer", "repeat")
    )
    mimic_interpolation: str = option(
        "bilinear", "one sample for each pixel of a crop, or the mean over its area", choices=("bilinear", "area")
    )
    mimic_stop_gradient: bool = option(False, "the mimicking loss changes the detector's features alone")
    mimic_feature: str = option("after_relu", "the second fc layer's output", choices=("after_relu", "before_relu"))
    mimic_reduction: str = option(
        "image", "sum over an image's boxes; sum over the batch; mean over boxes", choices=("image", "sum", "mean")
    )
    mimic_chunk: int | None = option(
        None, "crops in one pass of the backbone, computed again going backward, to save memory", minimum=1
    )
