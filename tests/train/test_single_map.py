# SPDX-License-Identifier: Apache-2.0
"""The detectors without a pyramid from the command line: trained, measured, used, with their own defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.shapes import HEIGHT, WIDTH
from pliant._check import PliantError
from pliant.cli import main
from pliant.train import TrainConfig
from pliant.train.model import build_model, load_run
from pliant.train.progress import read_metrics
from pliant.train.schedule import build_optimizer

SETTINGS = (
    "--backbone resnet18 --deform c5 --no-modulated --reduction-channels 16 --rpn-channels 16 --anchor-sizes 16 32 "
    "--min-size 64 --max-size 96 --device cpu --steps 3 --log-every 1"
)
MODELS = {
    "faster-rcnn-dc5": "--roi-pool modulated --head-channels 16 --roi-samples 16 --train-proposals 40 --proposals 20",
    "rfcn": "--roi-pool deform --ohem 8 --train-proposals 40 --proposals 20",
    "class-aware-rpn": "",
}


@pytest.mark.parametrize("model", MODELS)
def test_trained_measured_and_used(model: str, shapes: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    arguments = ["--data", str(shapes), "--model", model, *SETTINGS.split(), *MODELS[model].split()]
    assert main(["train", *arguments, "--out", str(run)]) == 0
    records = read_metrics(run)
    losses = [record for record in records if "loss" in record]
    assert [record["step"] for record in losses] == [1, 2, 3]
    assert {"loss_classifier", "loss_box_reg"} <= set(losses[0])
    assert any("ap" in record for record in records)
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    assert 0 <= json.loads((run / "metrics.json").read_text())["ap"] <= 1

    picture = next((shapes / "val").glob("*.png"))
    assert main(["predict", str(run), str(picture), "--out", str(out), "--min-score", "0", "--device", "cpu"]) == 0
    assert list(out.glob("*.png"))
    found = json.loads((out / "predictions.json").read_text())
    assert found
    assert {record["category_id"] for record in found} <= {3, 7}
    for record in found:
        x, y, width, height = record["bbox"]
        assert x >= 0 and y >= 0 and x + width <= WIDTH + 0.01 and y + height <= HEIGHT + 0.01

    detector, categories, _ = load_run(run)
    assert [category.name for category in categories] == ["square", "bar"]
    assert not detector.training


def test_the_defaults_of_a_model_are_its_papers() -> None:
    rfcn = TrainConfig.from_dict({"data": "d", "model": "rfcn"})
    assert (rfcn.ohem, rfcn.class_agnostic, rfcn.reduction_channels) == (128, True, 1024)
    assert (rfcn.train_proposals, rfcn.proposals, rfcn.roi_samples) == (300, 300, 128)
    assert (rfcn.anchor_sizes, rfcn.min_size, rfcn.max_size) == ((64, 128, 256, 512), (600,), 1000)
    faster = TrainConfig.from_dict({"data": "d", "model": "faster-rcnn-dc5", "anchor_scales": [0.5]})
    assert (faster.ohem, faster.class_agnostic, faster.reduction_channels) == (None, False, 256)
    assert faster.anchor_sizes == (32, 64, 128, 256, 512)


def test_options_of_other_detectors_are_refused() -> None:
    for model, option in (("class-aware-rpn", "ohem"), ("rfcn", "fpn_channels"), ("faster-rcnn", "class_agnostic")):
        with pytest.raises(PliantError, match=f"^{option}: must be left out with the model '{model}'; it is for "):
            TrainConfig.from_dict({"data": "d", "model": model, option: 4})


def test_learning_rates_of_the_official_r_fcn() -> None:
    values = {"data": "d", "model": "rfcn", "backbone": "resnet18", "deform": "c5", "roi_pool": "deform", "lr": 1.0}
    config = TrainConfig.from_dict({**values, "offset_lr_scale": 1.0})
    model = build_model(config, 2)
    rates = {id(p): group["lr"] for group in build_optimizer(model, config).param_groups for p in group["params"]}
    by_rate = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert {name for name, rate in by_rate.items() if rate != 1.0} == {
        "backbone.reduction.weight",
        "backbone.reduction.bias",
    }
    assert by_rate["backbone.reduction.weight"] == 3.0


def test_every_size_of_anchor_is_on_the_one_map() -> None:
    values = {"data": "d", "model": "rfcn", "backbone": "resnet18", "anchor_sizes": [16, 40], "anchor_scales": [1, 3]}
    model = build_model(TrainConfig.from_dict(values), 2)
    anchors = model.get_submodule("rpn.anchor_generator")
    assert anchors.sizes == ((16, 48, 40, 120),)
    assert model.get_submodule("rpn.head.cls_logits").out_channels == 4 * 3
