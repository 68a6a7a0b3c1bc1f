# SPDX-License-Identifier: Apache-2.0
"""Settings, each within its own range, that together ask for too much memory: one line before it is spent."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch

from pliant._check import PliantError
from pliant.train import TrainConfig
from pliant.train.config import GROUPS
from pliant.train.model import build_model
from pliant.train.options import MODELS
from pliant.train.size import BoundedWeights, refuse_large


def config_of(**settings: Any) -> TrainConfig:
    return TrainConfig.from_dict({"data": "none", "backbone": "resnet18", **settings})


@pytest.mark.parametrize(
    ("settings", "categories", "message"),
    [
        ({}, 400_000, "boxes; got .* with roi_samples 512, proposals 1000 and 400000 categories; lower some of these"),
        (
            {"proposals": 100_000, "fpn_channels": 1024},
            2,
            "pooled regions; got 18.7 GiB with .*proposals 100000, fpn_c",
        ),
        ({"roi_samples": 100_000, "fpn_channels": 1024}, 2, "pooled regions; got 18.7 GiB with roi_samples 100000"),
        (
            {"min_size": [8192], "max_size": 8192, "fpn_channels": 1024},
            2,
            r"maps; got 16.0 GiB with min_size \(8192,\), max_size 8192, strides .*, fpn_channels 1024",
        ),
        ({"anchor_scales": [1.0] * 32, "anchor_ratios": [1.0] * 32}, 2, r"anchors; got 5\.\d GiB with .*anchor_scales"),
        (
            {"model": "mask-rcnn", "max_detections": 10000, "mask_channels": 8192},
            2,
            "masks; got .* max_detections 10000",
        ),
        ({"model": "deeplab"}, 100_000, "scores; got 80.5 GiB with min_size .* and 100000 categories"),
    ],
)
def test_what_is_too_large_is_named_before_memory_is_spent(
    settings: dict[str, Any], categories: int, message: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PliantError, match=f"config: must ask for at most 4 GiB of {message}"):
        build_model(config_of(**settings), categories)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3e6  # KiB


@pytest.mark.parametrize(
    ("settings", "categories", "named"),
    [
        (
            {"fpn_channels": 8192, "head_channels": 8192},
            2,
            "fpn_channels 8192, head_channels 8192, offset_groups 1 and 2",
        ),
        ({}, 200_000, "fpn_channels 256, head_channels 1024, offset_groups 1 and 200000"),
        ({"model": "rfcn"}, 2000, "reduction_channels 1024, rpn_channels 512, offset_groups 1 and 2000"),
        ({"model": "classifier"}, 3_000_000, "offset_groups 1 and 3000000"),
    ],
)
def test_too_many_weights_are_refused_while_they_are_made(
    settings: dict[str, Any], categories: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pliant.train.size.MOST_WEIGHTS", 2**28)  # so that making them takes no time
    message = (
        rf"config: must ask for at most 0.25 GiB of weights; got \S+ GiB with {named} categories; lower some of these"
    )
    with pytest.raises(PliantError, match=message):
        build_model(config_of(**settings), categories)


def test_published_settings_are_far_from_the_bounds() -> None:
    for model in MODELS:
        refuse_large(TrainConfig.from_dict({"data": "none", "model": model, "backbone": "resnet101"}), 150)
    refuse_large(config_of(min_size=[8192], max_size=8192), 1203)


def test_every_width_of_a_layer_is_among_the_settings_that_are_named() -> None:
    from dataclasses import fields

    from pliant.train.size import _WIDTHS

    widths = {spec.name for group in GROUPS for spec in fields(group) if spec.name.endswith(("_channels", "_groups"))}
    assert widths == set(_WIDTHS)


def test_memory_that_cannot_be_had_is_one_line() -> None:
    with pytest.raises(PliantError, match="config: must make a model for which there is memory; .*allocate"):  # noqa: SIM117
        with BoundedWeights(config_of(), 2):
            torch.empty(2**60)
    with pytest.raises(RuntimeError, match="negative dimension"), BoundedWeights(config_of(), 2):  # not of memory
        torch.empty(-1)
