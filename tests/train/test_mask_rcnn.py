# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN and deformable RoI pooling from the command line: trained, measured, used, drawn."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from helpers.shapes import HEIGHT, WIDTH
from pliant._check import PliantError
from pliant.cli import main
from pliant.data.detection.masks import decode_masks
from pliant.detection import MultiScaleDeformRoIPool
from pliant.train import TrainConfig
from pliant.train.model import build_model, load_run
from pliant.train.progress import read_metrics
from pliant.train.tasks import task_of

SETTINGS = (
    "--backbone resnet18 --strides 8 16 --fpn-channels 16 --head-channels 16 --roi-samples 16 --anchor-sizes 16 32 64 "
    "--min-size 64 --max-size 96 --device cpu --log-every 1"
)


def run_of(shapes: Path, folder: Path, options: str) -> Path:
    arguments = ["--data", str(shapes), *shlex.split(SETTINGS), *shlex.split(options)]
    assert main(["train", *arguments, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def masked(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Mask R-CNN of three steps, both of its pools deformable."""
    options = "--model mask-rcnn --roi-pool modulated --mask-channels 8 --steps 3 --crop 48 --rotate90"
    return run_of(shapes, tmp_path_factory.mktemp("masked"), options)


def test_masks_are_trained_and_their_ap_decides(masked: Path) -> None:
    records = read_metrics(masked)
    losses = [record for record in records if "loss" in record]
    assert len(losses) == 3 and all(0 < record["loss_mask"] < 10 for record in losses)
    assert any({"ap", "mask_ap", "mask_ap50"} <= set(record) for record in records)
    config = TrainConfig.load(masked / "config.json")
    assert task_of(config).metric == "mask_ap"
    model = load_run(masked)[0]
    pools = [model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool]  # type: ignore[union-attr]
    assert [(type(pool), pool.output_size) for pool in pools] == [
        (MultiScaleDeformRoIPool, (7, 7)),
        (MultiScaleDeformRoIPool, (14, 14)),
    ]


def test_eval_prints_both_tables(masked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(masked), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "\nboxes\n Average Precision" in text and "\nmasks\n Average Precision" in text
    numbers = json.loads((masked / "metrics.json").read_text())
    assert {"ap", "mask_ap"} <= set(numbers) and numbers["mask_per_category"].keys() == {"square", "bar"}


def test_predictions_hold_run_lengths_and_pictures_show_masks(masked: Path, shapes: Path, tmp_path: Path) -> None:
    picture = next((shapes / "val").glob("*.png"))
    arguments = [str(masked), str(picture), "--min-score", "0", "--device", "cpu"]
    assert main(["predict", *arguments, "--out", str(tmp_path / "masks")]) == 0
    found = json.loads((tmp_path / "masks" / "predictions.json").read_text())
    assert found
    runs = [record["segmentation"] for record in found]
    assert all(run["size"] == [HEIGHT, WIDTH] for run in runs)
    assert decode_masks([run["counts"].encode() for run in runs], HEIGHT, WIDTH).shape == (len(found), HEIGHT, WIDTH)
    assert list((tmp_path / "masks").glob("*.png"))


def test_bins_are_drawn_where_asked(masked: Path, shapes: Path, tmp_path: Path) -> None:
    """Red bins in yellow regions: colours that no grey picture of squares and bars has."""
    picture = next((shapes / "val").glob("*.png"))
    arguments = ["predict", str(masked), str(picture), "--draw", "bins", "--min-score", "0", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    red, green, blue = pil_to_tensor(Image.open(next(tmp_path.glob("*.png"))).convert("RGB")).int()
    assert ((red - green > 60) & (red - blue > 60)).sum() > 500


def test_faster_rcnn_takes_the_choice_of_pooling(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained and drawn; without deformable pooling there are no bins to draw, which is said in one line."""
    picture = str(next((shapes / "val").glob("*.png")))
    for kind in ("align", "deform"):
        (tmp_path / kind).mkdir()
        run = run_of(shapes, tmp_path / kind, f"--roi-pool {kind} --steps 2 --val-split none")
        pool = load_run(run)[0].get_submodule("roi_heads.box_roi_pool")
        assert isinstance(pool, MultiScaleDeformRoIPool) == (kind == "deform")
        arguments = ["predict", str(run), picture, "--draw", "bins", "--out", str(tmp_path / f"{kind}-drawn")]
        capsys.readouterr()
        assert main([*arguments, "--min-score", "0", "--device", "cpu"]) == (0 if kind == "deform" else 2)
        lines = capsys.readouterr().err.splitlines()
        assert kind == "deform" or lines == [
            "pliant: draw: bins needs a detector with deformable RoI pooling; got FasterRCNN; train one with "
            "--roi-pool deform or modulated"
        ]


def test_options_of_the_pools_reach_the_model() -> None:
    config = TrainConfig.from_dict(
        {
            "data": "shapes",
            "model": "mask-rcnn",
            "backbone": "resnet18",
            "strides": [8, 16],
            "anchor_sizes": [16.0, 32.0, 64.0],
            "fpn_channels": 8,
            "head_channels": 8,
            "mask_channels": 12,
            "roi_pool": "deform",
            "roi_branch": "mmcv",
            "roi_shared": False,
        }
    )
    model = build_model(config, 2)
    pool = model.get_submodule("roi_heads.mask_roi_pool")
    assert isinstance(pool, MultiScaleDeformRoIPool)
    assert [layer.branch for layer in pool.levels] == ["mmcv", "mmcv"]
    assert model.get_submodule("roi_heads.mask_predictor.conv5_mask").in_channels == 12
    with pytest.raises(
        PliantError,
        match="mask_channels: must be left out with the model 'faster-rcnn'; it is for mask-rcnn and mask-rcnn-dc5;",
    ):
        TrainConfig.from_dict({"data": "shapes", "mask_channels": 12})
    with pytest.raises(
        PliantError, match="ohem: must be left out with the model 'mask-rcnn'; it is for faster-rcnn and "
    ):
        TrainConfig.from_dict({"data": "shapes", "model": "mask-rcnn", "ohem": 64})


def test_data_without_masks_are_refused(shapes: Path, tmp_path: Path) -> None:
    file = next(iter(shapes.glob("annotations/*train.json")))
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        del entry["segmentation"]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / file.name).write_text(json.dumps(content))
    (tmp_path / "train").symlink_to(shapes / "train")
    config = TrainConfig.from_dict({"data": str(tmp_path), "model": "mask-rcnn"})
    with pytest.raises(PliantError, match="must have masks, polygons or run lengths"):
        task_of(config).open_data(config, "train", training=True)


def test_masks_move_with_their_image_in_training(shapes: Path) -> None:
    """Squares are bright and bars dark on grey: the pixels of a mask say so after any augmentation."""
    config = TrainConfig.from_dict(
        {"data": str(shapes), "model": "mask-rcnn", "crop": 48, "rotate90": True, "vertical_flip": 0.5}
    )
    dataset = task_of(config).open_data(config, "train", training=True)
    seen = 0
    for seed in range(3):
        torch.manual_seed(seed)
        for k in range(len(dataset)):
            image, target = dataset[k]
            for mask, label in zip(target["masks"].bool(), target["labels"].tolist(), strict=True):
                inside = image[:, mask].mean().item()
                assert inside > 0.9 if label == 1 else inside < 0.1
                seen += 1
    assert seen > 20
