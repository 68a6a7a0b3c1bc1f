# SPDX-License-Identifier: Apache-2.0
"""Training with feature mimicking: its options, its losses in the metrics, and weights without the branch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from safetensors.torch import load_file

from pliant._check import PliantError
from pliant.detection import MimicOptions
from pliant.detection.mimic_parts import CHOICES
from pliant.train import TrainConfig
from pliant.train.model import build_model, load_run
from pliant.train.options.parts import MimickingOptions
from pliant.train.progress import read_metrics
from pliant.train.run import resume, train


def test_the_command_line_has_the_branchs_own_options_and_defaults() -> None:
    ours = {spec.name: spec for spec in dataclasses.fields(MimickingOptions) if spec.name != "mimic"}
    theirs = {f"mimic_{spec.name}": spec for spec in dataclasses.fields(MimicOptions)}
    assert {name: spec.default for name, spec in ours.items()} == {n: spec.default for n, spec in theirs.items()}
    hints = {name: get_type_hints(MimickingOptions)[name] for name in ours}
    choices = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    assert choices == {f"mimic_{name}": values for name, values in CHOICES.items()}


def test_a_run_with_the_branch_leaves_weights_without_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "mimic": True, "mimic_crop_size": 64, "mimic_boxes_per_image": 5, "steps": 4}
    assert train(TrainConfig.from_dict(settings), tmp_path / "run")
    records = [record for record in read_metrics(tmp_path / "run") if "loss" in record]
    assert len(records) == 4
    for record in records:
        assert record["loss_mimic"] > 0
        assert record["loss_mimic_classifier"] > 0
        assert sum(value for key, value in record.items() if key.startswith("loss_")) == pytest.approx(record["loss"])
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    model, _, config = load_run(tmp_path / "run")
    assert config.mimic and config.mimic_boxes_per_image == 5
    assert set(weights) == set(model.state_dict())
    assert not any("mimic" in name for name in weights)
    branch = build_model(config, 2).mimic
    assert (branch.options.crop_size, branch.options.boxes_per_image) == (64, 5)  # type: ignore[union-attr]
    assert "mimic.classifier.weight" in torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert resume(tmp_path / "run")


def test_an_impossible_setting_is_refused_before_training(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        PliantError, match="mimic crop_size: must be a multiple of 32 pixels, 64 at least; got 70; use 224"
    ):
        train(TrainConfig.from_dict({**tiny, "mimic": True, "mimic_crop_size": 70}), tmp_path / "run")
