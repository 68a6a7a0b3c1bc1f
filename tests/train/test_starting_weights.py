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
from pliant.train.start import start_from


def test_a_training_starts_from_what_fits_of_another_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig.from_dict(tiny)
    save_run(tmp_path / "old", build_model(config, 5), [Category(k, f"class {k}") for k in range(1, 6)], config)
    old = load_run(tmp_path / "old")[0].state_dict()
    new = TrainConfig.from_dict({**tiny, "start": str(tmp_path / "old"), "steps": 1, "lr": 1e-12})
    assert (resolve(new).norm, resolve(new).frozen_stages) == ("frozen", 2)
    message = r"start: 2 categories not in .*old, which start at random: square, bar"
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
        start_from(build_model(other, 2), other, [Category(1, "a"), Category(2, "b")])
    with pytest.raises(PliantError, match="start: must be a file; got .*none/weights.safetensors"):
        train(TrainConfig.from_dict({**tiny, "start": str(tmp_path / "none")}), tmp_path / "new")


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ("faster-rcnn", {}),
        ("mask-rcnn-dc5", {"reduction_channels": 8, "rpn_channels": 8, "mask_channels": 8, "head_channels": 8}),
        ("rfcn", {"reduction_channels": 8, "rpn_channels": 8, "roi_pool": "deform", "class_agnostic": False}),
        ("class-aware-rpn", {"reduction_channels": 8, "rpn_channels": 8}),
        ("deeplab", {}),
        ("classifier", {}),
    ],
)
def test_rows_move_with_the_name_of_their_category(model: str, changed: dict[str, Any], tmp_path: Path) -> None:
    """Three categories, of which one is gone, one is new, and two have changed places."""
    config = TrainConfig.from_dict({"data": "d", "model": model, "backbone": "resnet18", **changed})
    torch.manual_seed(0)
    old, new = build_model(config, 3), build_model(config, 3)
    save_run(tmp_path / "old", old, [Category(k, name) for k, name in enumerate(("cat", "dog", "cow"), 1)], config)
    started = TrainConfig.from_dict({**config.as_dict(), "start": str(tmp_path / "old")})
    with pytest.warns(UserWarning, match="start: 1 category not in .*old, which start at random: hen"):
        start_from(new, started, [Category(k, name) for k, name in enumerate(("cow", "hen", "cat"), 1)])
    key, classes = {
        "faster-rcnn": ("roi_heads.box_predictor.bbox_pred.weight", [0, 3, None, 1]),
        "mask-rcnn-dc5": ("roi_heads.mask_predictor.mask_fcn_logits.weight", [0, 3, None, 1]),
        "rfcn": ("roi_heads.box_roi_pool.boxes.weight", [0, 3, None, 1]),
        "class-aware-rpn": ("rpn.head.cls_logits.weight", [0, 3, None, 1]),
        "deeplab": ("score.weight", [2, None, 0]),
        "classifier": ("backbone.fc.weight", [2, None, 0]),
    }[model]
    before, after = old.state_dict()[key], new.state_dict()[key]
    rows = len(before) // len(classes)
    for label, place in enumerate(classes):
        # The class-aware network scores one anchor after another; all others one class after another.
        mine = after[label :: len(classes)] if model == "class-aware-rpn" else after[label * rows : (label + 1) * rows]
        if place is None:
            assert not any(torch.equal(row, other) for row in mine for other in before)
        else:
            theirs = before[place :: len(classes)] if model == "class-aware-rpn" else before[place * rows :][:rows]
            assert torch.equal(mine, theirs)
    shared = "backbone.layer1.0.conv1.weight" if model == "classifier" else "backbone.body.layer1.0.conv1.weight"
    shared = "backbone.layer1.0.conv1.weight" if shared not in old.state_dict() else shared
    assert torch.equal(new.state_dict()[shared], old.state_dict()[shared])
