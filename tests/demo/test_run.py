# SPDX-License-Identifier: Apache-2.0
"""The demo on made-up photographs: the cutting of boxes by hand, and every file that it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from helpers.silhouettes import silhouette_files
from pliant.data import open_detection
from pliant.demo import run as run_module
from pliant.demo.animals import Arm, curves, table
from pliant.demo.fetch import SILHOUETTES, TEST_PHOTO, TRAIN_PHOTO, WEIGHTS
from pliant.demo.run import run_demo
from pliant.demo.shapes import Curve
from pliant.demo.trees import boxes_within, even_colours, write_trees

BOX = "<object><name>Tree</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
SIZE = "<size><width>{}</width><height>{}</height><depth>3</depth></size>"


def _photo(folder: Path, name: str, width: int, height: int) -> None:
    """A photograph of noise with a bright square of 40 pixels every 120 pixels, as Pascal VOC has it."""
    generator = torch.Generator().manual_seed(width)
    pixels = torch.randint(60, 140, (height, width, 3), generator=generator, dtype=torch.uint8)
    objects = []
    for top in range(50, height - 60, 120):
        for left in range(70, width - 60, 120):
            pixels[top : top + 40, left : left + 40] = 240
            objects.append(BOX.format(left, top, left + 40, top + 40))
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(folder / "JPEGImages" / f"{name}.png")
    xml = f"<annotation><filename>{name}.png</filename>{SIZE.format(width, height)}{''.join(objects)}</annotation>"
    (folder / "Annotations" / f"{name}.xml").write_text(xml, encoding="utf-8")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The two photographs, made-up silhouettes and random starting weights."""
    folder = tmp_path / "cache"
    _photo(folder, TRAIN_PHOTO, 900, 760)
    _photo(folder, TEST_PHOTO, 500, 420)
    for split, name in (("train", TRAIN_PHOTO), ("test", TEST_PHOTO)):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(name + "\n", encoding="utf-8")
    (folder / SILHOUETTES).mkdir()
    for name, content in silhouette_files().items():
        (folder / SILHOUETTES / name).write_bytes(content)
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), folder / WEIGHTS)
    return folder


def test_boxes_are_cut_moved_and_dropped_by_hand() -> None:
    boxes = torch.tensor([[100.0, 210, 140, 250], [80, 200, 120, 240], [95, 190, 105, 230], [300, 205, 340, 215]])
    # The window is 100..300 x 200..400: all of the first, half of the second, 5 x 30 of 10 x 40 of the third.
    kept = boxes_within(boxes, (100, 200, 300, 400))
    assert kept.tolist() == [[0, 10, 40, 50], [0, 0, 20, 40]]


def test_tiles_cover_the_training_photograph_alone(photos: Path, tmp_path: Path) -> None:
    folder = write_trees(photos, tmp_path / "trees")
    dataset = open_detection(folder, "train")
    assert len(dataset) == 4  # 640-pixel tiles of 900 x 760
    sizes = {(dataset.image_info(k).width, dataset.image_info(k).height) for k in range(4)}
    assert sizes == {(640, 640)}
    image, target = dataset[0]
    left, top, right, bottom = (int(v) for v in target["boxes"][0].tolist())
    inside = image[:, top:bottom, left:right].float().mean()
    assert inside > image.float().mean() + 80, "the boxes lie on the bright squares"
    test = open_detection(folder, "test")
    assert [(test.image_info(k).width, test.image_info(k).height) for k in range(len(test))] == [(500, 420)]


def test_colours_become_even_channel_by_channel() -> None:
    photo = torch.stack(
        [torch.full((20, 30), 10), torch.arange(600).reshape(20, 30) / 10, torch.arange(600).reshape(20, 30) / 5]
    )
    even = even_colours(photo.round().to(torch.uint8)).float()
    assert even[0].unique().tolist() == [115.0]  # a channel without spread stays flat, at 0.45 * 255 = 114.75
    assert even[1:].mean((1, 2)).tolist() == pytest.approx([114.75, 114.75], abs=1.0)
    assert even[1:].std((1, 2)).tolist() == pytest.approx([56.1, 56.1], abs=1.5)


def test_the_demo_writes_what_it_promises(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "fetch", lambda cache: cache)
    outcome = run_demo(tmp_path / "out", cache=photos, steps=2, epochs=2, seed=1)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "coco.txt", "coco.json", "loss.png", "trees.png", "sampling.png", "report.html", "animals.txt", "animals.png",
        "runs",
    }  # fmt: skip
    assert json.loads((out / "coco.json").read_text(encoding="utf-8"))["ap50"] == pytest.approx(outcome.metrics.ap50)
    assert (out / "coco.txt").read_text(encoding="utf-8").count("Average Precision") == 6
    config = json.loads((out / "runs" / "trees" / "config.json").read_text(encoding="utf-8"))
    assert config["deform"] == r"fpn\.layer_blocks"
    said = capsys.readouterr().out
    assert "plain, 49,409 parameters" in said and "deformable, 41,141 parameters" in said
    assert said.splitlines()[-4] == "open these:"
    opened = [Path(line.split(":")[0].strip()) for line in said.splitlines()[-3:]]
    assert len(set(opened)) == 3 and all(path.is_file() for path in opened), "it ends by naming three files to open"


def _arm(warp: str, kind: str, last: float) -> Arm:
    return Arm(warp, kind, {"plain": 1234, "deformable": 987}[kind], Curve([0.5, last], [2.0, 1.0], [3.0, 7.4]))


def test_the_table_of_animals_by_hand() -> None:
    values = {("upright", "plain"): 0.9, ("upright", "deformable"): 0.891}
    values |= {("any angle, size and shear", "plain"): 0.7, ("any angle, size and shear", "deformable"): 0.8}
    arms = [_arm(*place, last) for place, last in values.items()]
    lines = [line.split("  ") for line in table(arms).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0][1:] == ["plain, 1,234 parameters", "deformable, 987 parameters"]
    assert cells[1] == ["upright", "0.900 (7 s of CPU)", "0.891 (7 s of CPU)"]
    assert cells[2][1:] == ["0.700 (7 s of CPU)", "0.800 (7 s of CPU)"]
    assert curves(arms)["upright"] == {"plain": [0.5, 0.9], "deformable": [0.5, 0.891]}
