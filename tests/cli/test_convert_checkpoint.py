# SPDX-License-Identifier: Apache-2.0
"""`pliant convert-checkpoint`: a run folder that predicts, a report that accounts for every tensor, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.detectors import build
from pliant.checkpoints import CONVERTERS
from pliant.cli import main
from pliant.cli.convert_checkpoint import SOURCES
from pliant.detection import faster_rcnn
from pliant.train.model import load_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's names: a small Faster R-CNN for two classes."""
    torch.manual_seed(2)
    model = build(faster_rcnn, 3, fpn_channels=8, head_channels=16, norm="batch")
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    torch.save(model.state_dict(), path)
    return path


def test_a_converted_run_predicts_and_every_tensor_is_accounted_for(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("cell\nplatelet\n", encoding="utf-8")
    run = tmp_path / "run"
    arguments = [
        "--out",
        str(run),
        "--deform",
        "c5",
        "--set",
        "min_size=[64]",
        "--categories",
        str(tmp_path / "names.txt"),
    ]
    assert main(["convert-checkpoint", str(checkpoint), *arguments]) == 0
    printed = capsys.readouterr().out
    given = torch.load(checkpoint, weights_only=True)
    report = json.loads((run / "conversion.json").read_text(encoding="utf-8"))
    assert {e["source"] for e in report["entries"] if e["source"]} | set(report["left"]) == set(given)
    assert all(name in printed for name in given)
    assert "torchvision: " in printed.splitlines()[-1] and printed.splitlines()[-1].endswith(" left; 8 new")
    model, categories, config = load_run(run)
    assert [category.name for category in categories] == ["cell", "platelet"]
    assert (config.deform, config.min_size, config.backbone) == ("c5", (64,), "resnet18")
    assert torch.equal(model.state_dict()["backbone.body.conv1.weight"], given["backbone.body.conv1.weight"])
    Image.new("RGB", (80, 64), "gray").save(tmp_path / "image.png")
    assert main(["predict", str(run), str(tmp_path / "image.png"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "predictions.json").is_file()


def test_layers_alone_are_written_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"ida.conv.weight": torch.rand(4, 3, 3, 3), "ida.conv.conv_offset_mask.bias": torch.rand(27)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "dla.pth")
    assert main(["convert-checkpoint", str(tmp_path / "dla.pth"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert capsys.readouterr().out == "dcnv2: 2 tensors taken, 0 of them changed; 0 left; 0 new\n"
    assert set(load_file(tmp_path / "run" / "weights.safetensors")) == {"ida.conv.weight", "ida.conv.conv_offset.bias"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["conversion.json", "weights.safetensors"]
    assert main(["convert-checkpoint", str(tmp_path / "dla.pth"), "--out", str(tmp_path / "2"), "--deform", "c5"]) == 2
    assert "must be of a system of pliant's; got layers of a dcnv2 network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "fpn_channels=9"], "checkpoint: must have backbone.fpn.inner_blocks.0.0.weight in the shape (9, "),
        (["--set", "min_sise=3"], "config: must have known keys only; got 'min_sise'; .* Did you mean 'min_size'"),
        (["--set", "min_size"], "set: must be NAME=VALUE; got 'min_size'; write e.g. --set max_size=1000"),
        (["--from", "detectron2"], "checkpoint: must have one of the backbones"),
        (["--deform", "c9"], "where: "),
    ],
)
def test_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert-checkpoint", str(checkpoint), "--out", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    first, _, rest = message.partition(" .* ")
    assert first in error and rest in error
    assert not (tmp_path / "run").exists()


def test_a_used_folder_and_wrong_categories_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("cell\n", encoding="utf-8")
    command = ["convert-checkpoint", str(checkpoint), "--out"]
    assert main([*command, str(tmp_path)]) == 2
    assert "out: must be a new or an empty folder" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "run"), "--categories", str(tmp_path / "names.txt")]) == 2
    assert "categories: must be 2 different names; got 1 in" in capsys.readouterr().err
    (tmp_path / "names.txt").write_bytes(b"cell\nplaquette \xe9\n")
    assert main([*command, str(tmp_path / "run"), "--categories", str(tmp_path / "names.txt")]) == 2
    assert "categories: must be a text file in UTF-8" in capsys.readouterr().err


def test_every_library_that_is_converted_can_be_named() -> None:
    assert (*CONVERTERS,) == SOURCES[1:]
