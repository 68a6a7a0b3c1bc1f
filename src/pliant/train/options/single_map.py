# SPDX-License-Identifier: Apache-2.0
"""The detectors without a pyramid, in the papers' form: conv5 at stride 16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pliant.train.options.fields import MOST_CHANNELS, Options, option


@dataclass(frozen=True, kw_only=True)
class SingleMapOptions(Options):
    """The 1x1 convolution on conv5, and what the official code has in its heads."""

    TITLE: ClassVar[str] = "detectors of the papers' form (conv5 at stride 16, no pyramid)"
    ONLY: ClassVar[tuple[str, ...]] = ("single map",)

    reduction_channels: int = option(
        256,
        "channels of the 1x1 convolution on conv5; default 1024 but for faster-rcnn-dc5",
        minimum=1,
        maximum=MOST_CHANNELS,
    )
    reduction_lr_scale: float = option(
        1.0, "factor on the learning rate of that convolution; default 3 for rfcn, as the official code has", minimum=0
    )
    rpn_channels: int = option(
        512, "channels of the proposal network's 3x3 convolution", minimum=1, maximum=MOST_CHANNELS
    )
    train_proposals: int = option(
        2000, "regions per image handed to the second stage in training", minimum=1, maximum=100000, only=("regions",)
    )
    class_agnostic: bool = option(False, "one box for all classes (official R-FCN)", only=("regions",))
    background_iou: float = option(
        0.0,
        "least overlap with a box of regions trained on as background (official v1 Faster R-CNN: 0.1)",
        minimum=0,
        only=("regions",),
    )
