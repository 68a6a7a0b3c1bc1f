# SPDX-License-Identifier: Apache-2.0
"""Training that starts from the weights of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pliant._check import PliantError
from pliant.data import Category
from pliant.train import TrainConfig
from pliant.train.model import build_model, load_run, resolve, save_run
from pliant.train.run import train


def test_a_training_starts_from_what_fits_of_another_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig.from_dict(tiny)
    save_run(tmp_path / "old", build_model(config, 5), [Category(k, f"class {k}") for k in range(1, 6)], config)
    old = load_run(tmp_path / "old")[0].state_dict()
    new = TrainConfig.from_dict({**tiny, "start": str(tmp_path / "old"), "steps": 1, "lr": 1e-12})
    assert (resolve(new).norm, resolve(new).frozen_stages) == ("frozen", 2)
    message = (
        r"start: 4 tensors do not come from .*old and start anew: roi_heads.box_predictor.cls_score.weight, .*bias"
    )
    with pytest.warns(UserWarning, match=message):
        assert train(new, tmp_path / "new")
    trained = load_run(tmp_path / "new")[0].state_dict()
    for name, tensor in trained.items():
        if "box_predictor" not in name:
            torch.testing.assert_close(tensor, old[name], rtol=0, atol=1e-6, msg=name)
    assert len(trained["roi_heads.box_predictor.cls_score.bias"]) == 3


def test_another_model_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig.from_dict(tiny)
    save_run(tmp_path / "old", build_model(config, 2), [Category(1, "a"), Category(2, "b")], config)
    other = TrainConfig.from_dict(
        {**tiny, "backbone": "mobilenet_v3_small", "deform": None, "start": str(tmp_path / "old")}
    )
    with pytest.raises(
        PliantError, match="start: must hold a model much like this one; .* of its .* tensors are absent"
    ):
        build_model(other, 2)
    with pytest.raises(PliantError, match="weights: must be a file; got .*none/weights.safetensors"):
        build_model(TrainConfig.from_dict({**tiny, "start": str(tmp_path / "none")}), 2)
