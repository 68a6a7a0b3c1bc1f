# SPDX-License-Identifier: Apache-2.0
"""Folders of classes: numbering, trained classes, broken images, and the transforms of training."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from helpers.data_sets import cut, save_noise
from pliant._check import PliantError
from pliant.data import Category, Problem, classification_transforms, open_classification, read_image
from pliant.data.images import read_header


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """Classes ash, Oak and yew (in the order of ImageFolder), with 1, 2 and 3 images; one lies a folder deeper."""
    for name, count in (("yew", 3), ("ash", 1), ("Oak", 2)):
        for number in range(1, count + 1):
            save_noise(tmp_path / "train" / name / f"{number * 'i'}.jpg")
    save_noise(tmp_path / "train" / "yew" / "old" / "deep.PNG")
    (tmp_path / "train" / "yew" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "list.txt").write_text("no class")
    return tmp_path


def test_classes_and_images_are_numbered_as_imagefolder_does(trees: Path) -> None:
    dataset = open_classification(trees)
    theirs = ImageFolder(str(trees / "train"))
    assert dataset.class_names == theirs.classes == ["Oak", "ash", "yew"]
    assert [(str(dataset.image_info(i).path), int(dataset.labels[i])) for i in range(len(dataset))] == theirs.samples
    image, target = dataset[3]
    assert torch.equal(image, read_image(trees / "train" / "yew" / "i.jpg"))
    assert (target["label"].item(), target["label"].shape, target["image_id"].item()) == (2, (), 4)
    assert dataset.report.summary() == ["no problems"]


def test_a_fingerprint_opens_no_image_and_differs_with_names_and_order(trees: Path) -> None:
    before = open_classification(trees).fingerprint()
    (trees / "train" / "yew" / "i.jpg").rename(trees / "train" / "yew" / "i\udce9.jpg")  # the byte 0xe9, no UTF-8
    (trees / "train" / "ash" / "i.jpg").write_bytes(b"no image")
    renamed = open_classification(trees)
    listed = "".join(f"{number} {renamed._file(number - 1).name}\n" for number in range(1, 8))
    assert renamed.fingerprint() == hashlib.sha256(os.fsencode(listed)).hexdigest() != before
    assert renamed.report.count(Problem.BROKEN_PIXELS) == 0


def test_labels_follow_the_classes_of_a_trained_model(trees: Path) -> None:
    known = [Category(0, "yew"), Category(1, "elm"), Category(2, "ash")]
    dataset = open_classification(trees, categories=known)
    assert dataset.labels.tolist() == [2, 0, 0, 0, 0]
    assert dataset.report.names(Problem.UNTRAINED_CLASS) == ["Oak"]
    with pytest.raises(PliantError, match="must have classes of the model, 'elm'; got 'Oak', 'ash', 'yew'"):
        open_classification(trees, categories=[Category(0, "elm")])


def test_broken_images_are_found_when_they_are_read_and_empty_classes_at_once(trees: Path) -> None:
    (trees / "train" / "birch").mkdir()
    (trees / "train" / "yew" / "i.jpg").write_bytes(b"no image")
    cut(trees / "train" / "Oak" / "i.jpg")
    dataset = open_classification(trees)
    assert dataset.class_names == ["Oak", "ash", "birch", "yew"]
    assert dataset.report.names(Problem.EMPTY_CLASS) == ["birch"]
    assert dataset.report.count(Problem.BROKEN_PIXELS) == 0
    assert dataset[0][1]["image_id"].item() == 2
    assert dataset[3][1]["image_id"].item() == 5
    assert dataset.report.names(Problem.BROKEN_PIXELS) == ["Oak/i.jpg", "yew/i.jpg"]
    with pytest.raises(
        PliantError, match="must have no problems where strict=True; got classes without an image: 1, kept"
    ):
        open_classification(trees, strict=True)


def test_of_many_images_some_twenty_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_noise(tmp_path / "train" / "ash" / "000.jpg", size=(30, 20))
    for number in range(1, 90):
        (tmp_path / "train" / "ash" / f"{number:03d}.jpg").write_bytes(b"version https://git-lfs")
    with pytest.raises(PliantError, match="half of its images in order; got 22 broken of 23 opened; image: must be"):
        open_classification(tmp_path)
    for number in range(1, 90):
        os.link(tmp_path / "train" / "ash" / "000.jpg", tmp_path / "train" / "ash" / f"a{number}.jpg")
    opened: list[Path] = []
    monkeypatch.setattr(
        "pliant.data.classification.open.read_header", lambda path: opened.append(path) or read_header(path)
    )
    with pytest.raises(PliantError, match="must have two classes with images at least; got 'ash' alone"):
        open_classification(tmp_path)
    save_noise(tmp_path / "train" / "oak" / "1.jpg")
    opened.clear()
    dataset = open_classification(tmp_path)
    assert len(dataset) == 180
    assert 20 <= len(opened) <= 25
    info = dataset.image_info(-2)
    assert (info.id, info.file_name, info.width, info.height) == (179, "ash/a9.jpg", 30, 20)


def test_links_to_folders_elsewhere_are_not_followed(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save_noise(elsewhere / "a.jpg")
    (trees / "train" / "yew" / "loop").symlink_to(trees / "train", target_is_directory=True)
    (trees / "train" / "ash" / "elsewhere").symlink_to(elsewhere, target_is_directory=True)
    assert len(open_classification(trees)) == 7


def test_other_folders_and_splits_are_refused_by_what_was_looked_for(trees: Path, tmp_path: Path) -> None:
    with pytest.raises(PliantError, match=r"split: must be one of those in .*: 'train'; got 'val'"):
        open_classification(trees, "val")
    with pytest.raises(PliantError, match=r"folder for each class; got .*looked for val/CLASS/IMAGE\.jpg"):
        open_classification(trees / "train" / "ash", "val")
    with pytest.raises(PliantError, match="data: must be a folder"):
        open_classification(tmp_path / "absent")


def test_training_crops_show_the_image_and_keep_the_target() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[0] = torch.arange(60, dtype=torch.uint8) * 4  # red rises to the right
    target = {"label": torch.tensor(2)}
    falling = 0
    for seed in range(30):
        torch.manual_seed(seed)
        crop, same = classification_transforms(16, scale=(0.2, 0.9))(image, target)
        assert (tuple(crop.shape), crop.dtype, same["label"].item()) == ((3, 16, 16), torch.float32, 2)
        slope = crop[0, :, -1] - crop[0, :, 0]
        assert (slope.abs() > 0.1).all()
        falling += bool((slope < 0).all())
    assert 8 <= falling <= 22


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: must be a positive number of pixels; got 0"),
        ({"scale": (0.5, 1.5)}, r"scale: must be two rising positive numbers up to 1; got \(0.5, 1.5\)"),
        ({"ratio": (2.0, 1.0)}, r"ratio: must be two rising positive numbers; got \(2.0, 1.0\)"),
        ({"flip": -0.1}, "flip: must be a probability"),
        ({"rotate": 181.0}, "rotate: must be an angle"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_transforms(**options)  # type: ignore[arg-type]
