# SPDX-License-Identifier: Apache-2.0
"""DeepLab from the command line: trained, evaluated, used, explained, resumed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.label_shapes import CLASSES, HEIGHT, WIDTH, write_label_shapes
from pliant.cli import main
from pliant.data import open_segmentation
from pliant.train import TrainConfig
from pliant.train.model import load_run
from pliant.train.progress import read_metrics
from pliant.train.run import train
from pliant.train.tasks import task_of

SETTINGS = (
    "--model deeplab --backbone resnet18 --deform c5 --no-modulated --output-stride 8 --min-size 48 --max-size 80 "
    "--batch-size 4 --epochs 8 --lr 0.1 --warmup-steps 2 --rotate 5 --eval-every 8 --device cpu --log-every 4"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_label_shapes(tmp_path_factory.mktemp("scenes"), {"train": 12, "val": 3})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", str(data), "--out", str(out), *SETTINGS.split()]) == 0
    return out


def test_it_learns_to_tell_pixels_apart(run: Path) -> None:
    records = read_metrics(run)
    losses = [record["loss_seg"] for record in records if "loss_seg" in record]
    assert losses[-1] < losses[0] / 2
    # All background would have an mIoU of a quarter.
    assert next(record["miou"] for record in records if "miou" in record) > 0.5
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["model"], config["offset_dilation"], config["output_stride"]) == ("deeplab", "official", 8)
    assert "anchor_ratios" not in config and "crop" not in config


def test_eval_prints_the_table_and_writes_what_a_recount_gives(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(run), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert "3 images with labels of 3 classes; no problems" in out
    assert "IoU by category" in out and "over 8928 pixels" in out
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    model, _, _ = load_run(run)
    dataset = open_segmentation(data, "val")
    predicted = torch.cat([model([dataset[k][0].float() / 255])[0]["labels"].flatten() for k in range(3)])
    truth = torch.cat([dataset[k][1]["labels_map"].flatten() for k in range(3)])
    kept = truth != 255
    ious = [
        float(((predicted == c) & (truth == c) & kept).sum()) / float((((predicted == c) | (truth == c)) & kept).sum())
        for c in range(3)
    ]
    assert list(metrics["per_category"]) == list(CLASSES)
    assert metrics["per_category"] == pytest.approx(dict(zip(CLASSES, ious, strict=True)))
    assert metrics["miou"] == pytest.approx(sum(ious) / 3)


def test_predict_writes_pictures_label_maps_and_counts(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data / "images" / "val"
    assert main(["predict", str(run), str(images), "--out", str(tmp_path / "out"), "--min-score", "0.9"]) == 2
    assert "min_score: must be left out with the model 'deeplab'; it labels every pixel" in capsys.readouterr().err
    assert main(["predict", str(run), str(images), "--out", str(tmp_path / "out")]) == 0
    model, _, _ = load_run(run)
    image = np.asarray(Image.open(images / "002.png"))
    expected = model([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255])[0]["labels"]
    with Image.open(tmp_path / "out" / "0002_002_labels.png") as written:
        assert (written.mode, written.size) == ("P", (WIDTH, HEIGHT))
        assert np.array_equal(np.asarray(written), expected.numpy())
    with Image.open(tmp_path / "out" / "0002_002.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**7) or []) > 100
    records = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    of_second = {record["category"]: record["pixels"] for record in records if record["image_id"] == 2}
    assert sum(of_second.values()) == HEIGHT * WIDTH
    assert of_second["background"] == int((expected == 0).sum())


def test_explain_draws_a_layer_of_the_trunk(run: Path, data: Path, tmp_path: Path) -> None:
    picture, image = tmp_path / "explained.png", data / "images" / "val" / "001.png"
    arguments = ["--at", "20,30", "--out", str(picture), "--layer", "layer4.1.conv1"]
    assert main(["explain", str(run), str(image), *arguments]) == 0
    assert picture.stat().st_size > 0


def test_parts_of_images_score_like_the_whole(data: Path) -> None:
    config = TrainConfig.from_dict({"data": str(data), "model": "deeplab"})
    task = task_of(config)
    dataset: Any = task.open_data(config, "val", training=False)
    parts = []
    for index in range(3):
        target = dataset[index][1]
        labels = target["labels_map"].clone()
        labels[labels == 2] = 1  # every bar is taken for a square
        parts.append(task.part({"labels": torch.where(labels == 255, 0, labels)}, target, dataset))
    metrics = task.score(parts, dataset, config).as_dict()
    squares, bars = (sum(int((dataset[k][1]["labels_map"] == c).sum()) for k in range(3)) for c in (1, 2))
    assert metrics["per_category"] == pytest.approx({"background": 1.0, "square": squares / (squares + bars), "bar": 0})
    assert metrics["pixels"] == 3 * HEIGHT * (WIDTH - 2)
    assert all(part.shape[0] == 2 and part.shape[1] <= 3 for part in parts)


def test_windows_keep_the_size_of_pixels(data: Path, tmp_path: Path) -> None:
    values = {"data": str(data), "model": "deeplab", "backbone": "resnet18", "device": "cpu", "steps": 1}
    config = TrainConfig.from_dict({**values, "window": [32, 48], "scale_range": [0.5, 1.5], "val_split": None})
    image, target = task_of(config).open_data(config, "train", training=True)[0]
    assert (tuple(image.shape), tuple(target["labels_map"].shape)) == ((3, 32, 48), (32, 48))
    assert train(config, tmp_path / "run")
    model, _, _ = load_run(tmp_path / "run")
    assert model.get_submodule("transform")([torch.rand(3, 40, 56)])[0].image_sizes == [(40, 56)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--model deeplab --anchor-ratios 1 2",
            "anchor_ratios: must be left out with the model 'deeplab'; it is for faster-rcnn and ",
        ),
        (
            "--model faster-rcnn --window 32 32",
            "window: must be left out with the model 'faster-rcnn'; it is for deeplab; ",
        ),
        ("--model deeplab --window 32", "window: must be two numbers; got 32"),
        ("--model deeplab --output-stride 12", "output_stride: must be one of the strides"),
        ("--model deeplab --split trian", "split: must be one of those in"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    data: Path, tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--backbone", "resnet18"]
    assert main([*arguments, *options.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
