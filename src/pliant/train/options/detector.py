# SPDX-License-Identifier: Apache-2.0
"""The detectors' own parts: pyramid, anchors, proposals, heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import MOST_CHANNELS, Options, option


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(Options):
    """Pyramid, anchors, proposals and heads."""

    TITLE: ClassVar[str] = "detector"
    ONLY: ClassVar[tuple[str, ...]] = ("detection",)

    strides: tuple[int, ...] = option(
        (4, 8, 16, 32), "strides of the pyramid's maps, in pixels", minimum=1, only=("pyramid",)
    )
    fpn_channels: int = option(
        256, "channels of the pyramid's maps", minimum=1, maximum=MOST_CHANNELS, only=("pyramid",)
    )
    head_channels: int = option(
        1024, "width of the box head's two layers", minimum=1, maximum=MOST_CHANNELS, only=("fc head",)
    )
    roi_pool: Literal["align", "deform", "modulated", "max"] = option(
        "align",
        "how regions are pooled: align (RoIAlign), deform (v1), modulated (v2); max for faster-rcnn-dc5 and "
        "mask-rcnn-dc5 alone; in rfcn position-sensitive, and not modulated",
        only=("regions",),
    )
    roi_branch: Literal["paper", "mmcv"] = option(
        "paper",
        "layers that deformable RoI pooling computes its offsets with: the papers' (v1: one; v2: three) or mmcv's (v1: "
        "three; v2: three, and two for the weights)",
        only=("pyramid",),
    )
    roi_shared: bool = option(
        True,
        "one such branch for all maps of the pyramid; without it one for each, as in mmdetection",
        only=("pyramid",),
    )
    mask_channels: int = option(256, "width of the mask head", minimum=1, maximum=MOST_CHANNELS, only=("masks",))
    roi_samples_per_bin: int = option(
        2,
        "samples along each axis of a region's bin (v2 paper: 2, official v1 code: 4)",
        minimum=1,
        maximum=64,
        only=("regions",),
    )
    roi_samples: int = option(
        512, "regions per image that the box head is trained on", minimum=1, maximum=100000, only=("regions",)
    )
    ohem: int | None = option(
        None,
        "train the box head on so many regions of an image with the highest loss, of all proposals",
        minimum=1,
        maximum=100000,
        only=("mined",),
    )
    anchor_sizes: tuple[float, ...] | None = option(
        None,
        "anchor side in pixels for each map of a pyramid and one more, by default 8 times the stride; without a "
        "pyramid all sides on its one map",
        minimum=1,
    )
    anchor_scales: tuple[float, ...] = option((1.0,), "factors; each map has an anchor of each", minimum=0.01)
    anchor_ratios: tuple[float, ...] = option((0.5, 1.0, 2.0), "heights over widths of the anchors", minimum=0.01)
    proposals: int = option(
        1000, "regions per image that the box head looks at in evaluation", minimum=1, maximum=100000, only=("regions",)
    )
    max_detections: int = option(100, "most detections per image", minimum=1, maximum=10000)
