# SPDX-License-Identifier: Apache-2.0
"""Detectors from options that stand side by side, each put into the value that it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from pliant.backbones import Trunk
from pliant.detection import SecondStage, faster_rcnn, faster_rcnn_dc5, pyramid_backbone

ANCHORS = {"anchor_sizes": "sizes", "anchor_scales": "scales", "anchor_ratios": "ratios"}
THRESHOLDS = {"score_threshold": "score", "nms_threshold": "nms", "max_detections": "detections"}
PYRAMID = {"strides": "strides", "fpn_channels": "out_channels"}


def taken(options: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Take the options called `names` out of `options`, under the names they have elsewhere."""
    return {own: options.pop(name) for name, own in names.items() if name in options}


def same(kind: type) -> dict[str, str]:
    return {field.name: field.name for field in fields(kind) if field.name != "network"}


def default(detector: Callable[..., Any], name: str) -> Any:
    by_keyword = {"mask_rcnn": faster_rcnn, "mask_rcnn_dc5": faster_rcnn_dc5}.get(detector.__name__, detector)
    return inspect.signature(by_keyword).parameters[name].default


def build(detector: Callable[..., Any], num_classes: int, backbone: Any = "resnet18", **options: Any) -> Any:
    """Call `detector` with, for instance, `deform="c5", roi_pool="deform", anchor_sizes=(16, 32), strides=(8, 16)`."""
    trunk, pyramid = taken(options, same(Trunk)), taken(options, PYRAMID)
    if isinstance(backbone, str):
        backbone = Trunk(backbone, **trunk)
    if pyramid:
        backbone = pyramid_backbone(backbone, **pyramid)
    groups = {
        "second_stage": taken(options, same(SecondStage)),
        "anchors": taken(options, ANCHORS),
        "thresholds": taken(options, THRESHOLDS),
    }
    for name, changed in groups.items():
        if changed:
            options[name] = replace(default(detector, name), **changed)
    return detector(num_classes, backbone, **options)
