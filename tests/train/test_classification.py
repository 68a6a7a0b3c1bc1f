# SPDX-License-Identifier: Apache-2.0
"""Classifiers from the command line: trained, evaluated, used, explained, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.label_shapes import CLASSES, write_class_shapes
from pliant.cli import main
from pliant.data import read_image
from pliant.train import TrainConfig
from pliant.train.model import load_run, resolve
from pliant.train.progress import read_metrics

SETTINGS = (
    "--model classifier --backbone resnet18 --deform c5 --crop-size 32 --resize-size 40 --crop-area 0.6 1 --epochs 8 "
    "--batch-size 9 --lr 0.02 --label-smoothing 0.05 --eval-every 8 --device cpu --log-every 2"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_shapes(tmp_path_factory.mktemp("shapes"), {"train": 6, "val": 3})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", str(data), "--out", str(out), *SETTINGS.split()]) == 0
    return out


def test_it_learns_to_tell_images_apart(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = read_metrics(run)
    losses = [record["loss_class"] for record in records if "loss_class" in record]
    assert losses[-1] < losses[0]
    assert main(["eval", str(run)]) == 0
    assert "9 images of 3 classes; no problems" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["top1"] > 0.6  # a third by chance
    assert metrics["top5"] == -1.0
    assert metrics["top1"] == next(record["top1"] for record in records if "top1" in record)


def test_a_broken_image_is_left_out_of_the_accuracy(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "val" / "bar" / "2.png").write_bytes(b"no image")
    assert main(["eval", str(run), "--data", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert "9 images of 3 classes; images found broken while reading: 1" in out
    assert "over 8 images" in out


def test_predict_writes_the_best_labels_and_a_picture(run: Path, data: Path, tmp_path: Path) -> None:
    image = data / "val" / "square" / "2.png"
    assert main(["predict", str(run), str(image), "--out", str(tmp_path / "out")]) == 0
    records = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    model, categories, _ = load_run(run)
    expected = model([read_image(image).float() / 255])[0]
    assert [category.name for category in categories] == sorted(CLASSES)
    assert [record["category_id"] for record in records] == expected["labels"].tolist()
    assert [record["category"] for record in records] == [sorted(CLASSES)[k] for k in expected["labels"].tolist()]
    assert [record["score"] for record in records] == pytest.approx(expected["scores"].tolist(), abs=1e-6)
    assert (tmp_path / "out" / "0001_2.png").stat().st_size > 0
    assert main(["predict", str(run), str(image), "--out", str(tmp_path / "no"), "--min-score", "0.1"]) == 2
    assert not (tmp_path / "no").exists()


def test_explain_looks_into_the_whole_image(run: Path, data: Path, tmp_path: Path) -> None:
    # The corner is not in the middle that tests look at.
    image = data / "val" / "square" / "1.png"
    arguments = [str(run), str(image), "--at", "0,0", "--out", str(tmp_path / "explained.png")]
    assert main(["explain", *arguments]) == 0
    assert (tmp_path / "explained.png").stat().st_size > 0


def test_fine_tuning_freezes_nothing_unless_asked(data: Path, tmp_path: Path) -> None:
    values = {"data": str(data), "model": "classifier", "backbone": "resnet18", "weights": str(tmp_path / "w.pth")}
    config = resolve(TrainConfig.from_dict(values))
    assert (config.norm, config.frozen_stages, config.batch_size) == ("batch", 0, 32)


def test_a_model_of_other_classes_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_class_shapes(tmp_path / "other", {"val": 1})
    for name in CLASSES:
        (other / "val" / name).rename(other / "val" / f"other {name}")
    assert main(["eval", str(run), "--data", str(other)]) == 2
    assert "must have classes of the model, 'background', 'bar', 'square'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--crop-area 0.5", "crop_area: must be two shares"),
        ("--crop-area 0.5 2", "scale: must be two rising positive numbers up to 1"),
        ("--crop-size 64 --resize-size 32", "crop_size: must be from 1 to resize_size"),
        ("--min-size 32", "min_size: must be left out with the model 'classifier'; it is for faster-rcnn and "),
        ("--backbone resnet19", "backbone: must name a classification network"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    data: Path, tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--model", "classifier"]
    assert main([*arguments, "--backbone", "resnet18", *options.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
