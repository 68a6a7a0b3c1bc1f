# SPDX-License-Identifier: Apache-2.0
"""Configs: what is refused and how it is said, and that a saved config is the config."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pliant._check import PliantError
from pliant.train import TrainConfig
from pliant.train.config import GROUPS, ONLY, overridden
from pliant.train.options import MODELS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bakbone": "resnet18"}, "config: must have known keys only; got 'bakbone'; .* Did you mean 'backbone'"),
        ({"lr": "fast"}, "lr: must be a finite number; got 'fast'"),
        ({"lr": 0.0}, "lr: must be positive; got 0.0"),
        ({"lr": float("inf")}, "lr: must be a finite number; got inf"),
        ({"milestones": [0.5, float("nan")]}, "milestones: must be a finite number; got nan"),
        ({"model": ["rfcn"]}, r"model: must be one of its choices; got \['rfcn'\]"),
        ({"epochs": 2.5}, "epochs: must be an integer of 64 bits; got 2.5"),
        ({"epochs": True}, "epochs: must be an integer of 64 bits; got True"),
        ({"rotate90": 1}, "rotate90: must be true or false; got 1"),
        ({"strides": 8}, "strides: must be a list; got 8"),
        ({"strides": [8, "16"]}, "strides: must be an integer of 64 bits; got '16'"),
        ({"batch_size": 0}, "batch_size: must be at least 1; got 0"),
        ({"min_size": [64, 8193]}, r"min_size: must be at most 8192; got \(64, 8193\); use 8192 or less"),
        ({"head_channels": 10**9}, "head_channels: must be at most 8192; got 1000000000"),
        ({"anchor_ratios": [1.0] * 33}, "anchor_ratios: must have at most 32 entries; got 33; leave some out"),
        ({"weight_decay": float("nan")}, "weight_decay: must be a finite number; got nan"),
        (
            {"schedule": "one-cycle"},
            "schedule: must be one of its choices; got 'one-cycle'; .* Did you mean 'onecycle'",
        ),
        ({"model": "faster_rcnn"}, "model: must be one of its choices; got 'faster_rcnn'.* Did you mean 'faster-rcnn'"),
        ({"backbone": None}, "backbone: must be text; got None"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError, match=message):
        TrainConfig.from_dict({"data": "d", **values})


def test_options_of_other_models_are_refused_however_they_are_given() -> None:
    message = (
        "proposals: must be left out with the model 'deeplab'; it is for faster-rcnn and mask-rcnn and .* and rfcn; "
        "`pliant train --help` says what each option is for"
    )
    with pytest.raises(PliantError, match=message):
        TrainConfig.from_dict({"data": "d", "model": "deeplab", "proposals": 1000})  # though it is the default
    with pytest.raises(PliantError, match=message):
        TrainConfig(data="d", model="deeplab", proposals=7)
    assert "proposals" not in TrainConfig(data="d", model="deeplab").as_dict()
    assert "proposals" in TrainConfig(data="d", model="rfcn").as_dict()


def test_what_is_not_given_has_the_default_of_its_model() -> None:
    config = TrainConfig.from_dict({"data": "d", "model": "rfcn", "ohem": 32})
    assert (config.min_size, config.ohem, config.class_agnostic, config.lr) == ((600,), 32, True, 0.0025)
    assert TrainConfig.from_dict(config.as_dict()) == config


def test_what_is_said_later_puts_its_rival_aside() -> None:
    recipe = {"steps": 30000, "step_images": 8, "lr": 0.008}
    assert overridden(recipe, {"epochs": 3}) == {"step_images": 8, "lr": 0.008, "epochs": 3}
    assert overridden(recipe, {"accumulate": 2, "lr": 1.0}) == {"steps": 30000, "accumulate": 2, "lr": 1.0}
    assert overridden({"epochs": 3}, {"steps": 9}) == {"steps": 9}


def test_every_option_is_of_one_group_and_every_group_has_a_heading() -> None:
    names = [spec.name for group in GROUPS for spec in dataclasses.fields(group)]
    assert sorted(names) == sorted(spec.name for spec in dataclasses.fields(TrainConfig))
    assert len(names) == len(set(names))
    assert all(group.TITLE for group in GROUPS)
    known = {part for kind in MODELS.values() for part in kind.parts}
    assert {part for only in ONLY.values() for part in only} == known
    assert all(key in ONLY for kind in MODELS.values() for key in kind.defaults)


def test_data_is_required() -> None:
    with pytest.raises(PliantError, match="data: must name the folder of the data set; got nothing; add --data DIR"):
        TrainConfig.from_dict({"lr": 0.1})


def test_saved_and_read_again(tmp_path: Path) -> None:
    config = TrainConfig(data="d", strides=(8, 16), anchor_sizes=(12.5, 25.0, 50.0), crop=None, lr=1, steps=7)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.as_dict()), encoding="utf-8")
    assert TrainConfig.load(path) == config
    assert isinstance(TrainConfig.load(path).lr, float)


@pytest.mark.parametrize(("text", "part"), [("{", "must be a json file"), ("[1]", "must be a JSON object; got list")])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(PliantError, match=part):
        TrainConfig.load(tmp_path / "c.json")
