# SPDX-License-Identifier: Apache-2.0
"""`pliant predict` and `pliant export` run models whose normalizations are folded into the layers before them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.runs import DETECTOR, write_photo, write_run
from pliant import surgery
from pliant.cli import main
from pliant.train.checkpoint import save_weights
from pliant.train.model import WEIGHTS_FILE, load_run

FOLDED = 4  # c4 of resnet18: two blocks of two 3x3 convolutions, each with its normalization


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose statistics, scales and shifts all matter."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", norm="batch", **DETECTOR)
    model = load_run(folder)[0]
    generator = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, least in (
                (module.weight.data, 0.5),
                (module.running_var, 0.5),
                (module.bias.data, -0.5),
                (module.running_mean, -0.5),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + least)
    save_weights(folder / WEIGHTS_FILE, model)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photos") / "photo.png")


def normalizations(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_predictions_are_those_of_the_model_as_it_was_trained(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = surgery.fuse
    folded: list[int] = []

    def counting(model: nn.Module) -> nn.Module:
        before = normalizations(model)
        fuse(model)
        folded.append(before - normalizations(model))
        return model

    def predict(name: str, function: Any) -> list[dict[str, Any]]:
        monkeypatch.setattr(surgery, "fuse", function)
        command = ["predict", str(run), str(photo), "--device", "cpu", "--score-threshold", "0"]
        assert main([*command, "--out", str(tmp_path / name)]) == 0
        results: list[dict[str, Any]] = json.loads((tmp_path / name / "predictions.json").read_text(encoding="utf-8"))
        return results

    unfused, fused = predict("unfused", lambda model: model), predict("fused", counting)
    assert folded == [FOLDED]
    assert len(unfused) > 1
    assert [r["category_id"] for r in fused] == [r["category_id"] for r in unfused]
    for key in ("score", "bbox"):
        a, b = (torch.tensor([r[key] for r in results]) for results in (fused, unfused))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_no_normalization_follows_an_exported_deformable_convolution(run: Path, photo: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    assert main(["export", str(run), "--size", "60", "80", "--image", str(photo), "--out", str(out)]) == 0
    graph = onnx.load(out).graph
    deformed = {node.output[0] for node in graph.node if node.op_type == "DeformConv"}
    assert len(deformed) == FOLDED
    after = [node.op_type for node in graph.node if deformed & set(node.input)]
    assert after and "BatchNormalization" not in after


def test_a_run_is_not_changed_by_predicting(run: Path, photo: Path, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in load_run(run)[0].state_dict().items()}
    assert main(["predict", str(run), str(photo), "--device", "cpu", "--out", str(tmp_path)]) == 0
    after = load_run(run)[0].state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
