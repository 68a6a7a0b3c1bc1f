# SPDX-License-Identifier: Apache-2.0
"""Label maps: the layouts they come in, what their values mean, and files that are broken, missing or malicious."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.data_sets import cut, save_noise
from pliant._check import PliantError
from pliant.data import Category, Problem, UnreadableImageError, open_segmentation, read_label_map, write_label_map
from pliant.data.class_names import CITYSCAPES_CLASSES, VOC_CLASSES

# Three rows, four columns, no symmetry.
LABELS = np.array([[0, 1, 2, 2], [0, 0, 255, 1], [1, 0, 0, 2]], dtype=np.uint8)
SIZE = (4, 3)


def save_labels(path: Path, values: np.ndarray = LABELS, *, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        height, width = values.shape
        image = Image.frombytes("P", (width, height), values.tobytes())
        image.putpalette([(7 * k) % 256 for k in range(768)])
    image.save(path)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Four images in images/train with labels/train, and three named classes."""
    for number in range(1, 5):
        save_noise(tmp_path / "images" / "train" / f"{number}.jpg", SIZE)
        save_labels(tmp_path / "labels" / "train" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("ground\ntree\nhouse\n", encoding="utf-8")
    return tmp_path


def labels_of(root: Path, split: str = "train", index: int = 0) -> Tensor:
    return open_segmentation(root, split)[index][1]["labels_map"].as_subclass(Tensor)


@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "gif"])
@pytest.mark.parametrize("palette", [False, True])
def test_values_come_through_unchanged(tmp_path: Path, kind: str, palette: bool) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    got = read_label_map(save_labels(tmp_path / f"a.{kind}", values, palette=palette))
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy(), values)


def test_bits_and_wide_values_that_fit_are_taken(tmp_path: Path) -> None:
    bits = save_labels(tmp_path / "bits.png", np.array([[True, False, True]]))
    wide = save_labels(tmp_path / "wide.png", np.array([[0, 255, 30]], dtype=np.uint16))
    assert read_label_map(bits).tolist() == [[1, 0, 1]]
    assert read_label_map(wide).tolist() == [[0, 255, 30]]


def test_a_written_map_is_read_back_and_has_its_colours(tmp_path: Path) -> None:
    palette = torch.arange(768).remainder(251).reshape(256, 3).to(torch.uint8)
    write_label_map(torch.from_numpy(LABELS), tmp_path / "a.png", palette=palette)
    assert np.array_equal(read_label_map(tmp_path / "a.png").numpy(), LABELS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("RGB").getpixel((2, 0)) == (6, 7, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Image.new("RGB", SIZE).save(p), "palette indices or grey levels, one channel; got .* in mode RGB"),
        (lambda p: Image.new("LA", SIZE).save(p), "one channel; got .* in mode LA"),
        (
            lambda p: Image.fromarray(np.full((3, 4), 256, dtype=np.uint16)).save(p),
            "must be values from 0 to 255; got .* with values from 256 to 256",
        ),
        (lambda p: Image.new("L", SIZE).save(p, format="JPEG"), "must be one of PNG, TIFF, BMP, GIF"),
        (lambda p: p.write_bytes(b"not an image"), "must be one of PNG"),
        (lambda p: None, "no such file is there"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "a.png")  # type: ignore[operator]
    with pytest.raises(UnreadableImageError, match=message):
        read_label_map(tmp_path / "a.png")


def huge_png(path: Path) -> None:
    """A few bytes that claim to be 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_paired_folders_in_both_orders(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    dataset = open_segmentation(plain)
    image, target = dataset[3]
    assert (tuple(image.shape), image.dtype) == ((3, 3, 4), torch.uint8)
    assert np.array_equal(target["labels_map"].numpy(), LABELS)
    assert target["image_id"].item() == 4
    assert (dataset.class_names, dataset.report.summary()) == (["ground", "tree", "house"], ["no problems"])
    other = tmp_path_factory.mktemp("other")
    for folder in ("images", "labels"):
        (other / "val").mkdir(exist_ok=True)
        (plain / folder / "train").rename(other / "val" / folder)
    (other / "classes.json").write_text(json.dumps({"0": "ground", "2": "house", "1": "tree"}), encoding="utf-8")
    assert np.array_equal(labels_of(other, "val").numpy(), LABELS)


def test_a_voc_folder_takes_its_lists_both_folders_of_labels_and_vocs_names(tmp_path: Path) -> None:
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("a", "b", "unlisted"):
        save_noise(home / "JPEGImages" / f"{name}.jpg", SIZE)
    save_labels(home / "SegmentationClass" / "a.png", palette=True)
    save_labels(home / "SegmentationClassAug" / "a.png", 0 * LABELS, palette=True)
    save_labels(home / "SegmentationClassAug" / "b.png", np.full_like(LABELS, 20))
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n\nb\na\n", encoding="utf-8")
    dataset = open_segmentation(tmp_path, "train")
    assert (len(dataset), dataset.class_names) == (2, list(VOC_CLASSES))
    assert np.array_equal(dataset[0][1]["labels_map"].numpy(), LABELS)
    assert dataset[1][1]["labels_map"].unique().tolist() == [20]
    assert dataset.report.names(Problem.REPEATED_IMAGE) == ["a"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..\\secret", "sub/a"])
def test_a_list_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{name}\n", encoding="utf-8")
    with pytest.raises(PliantError, match="half of its images in order; got 0 of 1; names that could lead out"):
        open_segmentation(tmp_path, "train")


def test_cityscapes_numbers_become_its_nineteen_classes(tmp_path: Path) -> None:
    # Every number of the data set once, and 255, which is how a PNG stores the licence plate's -1.
    values = np.array([*range(34), 255], dtype=np.uint8)[None]
    save_noise(tmp_path / "leftImg8bit" / "val" / "bonn" / "bonn_000001_000019_leftImg8bit.png", (35, 1))
    save_labels(tmp_path / "gtFine" / "val" / "bonn" / "bonn_000001_000019_gtFine_labelIds.png", values)
    dataset = open_segmentation(tmp_path, "val", verify="pixels")
    trained = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    trained |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    got = dataset[0][1]["labels_map"][0].tolist()
    assert got == [trained.get(value, 255) for value in [*range(34), 255]]
    assert (len(dataset.categories), dataset.class_names[13], CITYSCAPES_CLASSES[26]) == (19, "car", "car")
    assert dataset.report.summary() == ["no problems"]


def test_labels_follow_the_classes_of_a_trained_model(plain: Path) -> None:
    known = [Category(9, "house"), Category(4, "cloud"), Category(1, "ground")]
    dataset = open_segmentation(plain, categories=known)
    assert dataset[0][1]["labels_map"].tolist() == [[2, 255, 0, 0], [2, 2, 255, 255], [255, 2, 2, 0]]
    assert dataset.report.names(Problem.UNTRAINED_CLASS) == ["tree"]
    with pytest.raises(PliantError, match="must have classes of the model, 'cloud'; got 'ground', 'tree', 'house'"):
        open_segmentation(plain, categories=[Category(0, "cloud")])


def test_values_that_are_no_class_are_ignored_and_reported(plain: Path) -> None:
    save_labels(plain / "labels" / "train" / "2.png", np.where(LABELS == 2, 77, LABELS).astype(np.uint8))
    dataset = open_segmentation(plain)
    assert dataset[1][1]["labels_map"].tolist() == [[0, 1, 255, 255], [0, 0, 255, 1], [1, 0, 0, 255]]
    assert dataset.report.summary() == ["label maps with values that are no class: 1, those pixels ignored (2.png)"]


def test_label_maps_without_a_class_are_refused_at_once(plain: Path) -> None:
    for path in (plain / "labels" / "train").iterdir():
        save_labels(path, np.full_like(LABELS, 77))
    rule = r"pixels of its classes \('ground', 'tree', 'house'\) to learn from, .* got 0 of 48; most .* no class \(48\)"
    with pytest.raises(PliantError, match=rule):
        open_segmentation(plain)


@pytest.mark.parametrize("values", [np.where(LABELS == 0, 0, 255), 0 * LABELS, np.where(LABELS == 0, 0, 200)])
def test_label_maps_of_one_class_are_refused(plain: Path, values: np.ndarray) -> None:
    for path in (plain / "labels" / "train").iterdir():
        save_labels(path, values.astype(np.uint8))
    with pytest.raises(PliantError, match=r"must have pixels of two classes at least|to learn from"):
        open_segmentation(plain)
    (plain / "classes.txt").write_text("building\n")
    with pytest.raises(PliantError, match="must name two classes at least; got 1; name the background too"):
        open_segmentation(plain)


def test_a_class_without_a_pixel_is_named(plain: Path) -> None:
    for path in (plain / "labels" / "train").iterdir():
        save_labels(path, np.where(LABELS == 2, 0, LABELS).astype(np.uint8))
    assert open_segmentation(plain).report.summary() == [
        "classes without a pixel in the label maps looked into: 1, kept (house)"
    ]


def test_everything_wrong_is_left_out_counted_and_named(plain: Path) -> None:
    for number in range(5, 13):
        save_noise(plain / "images" / "train" / f"{number}.jpg", SIZE)
    save_labels(plain / "labels" / "train" / "1.png", LABELS[:2])
    (plain / "labels" / "train" / "2.png").unlink()
    Image.new("RGB", SIZE).save(plain / "labels" / "train" / "3.png")
    huge_png(plain / "labels" / "train" / "4.png")
    for number in range(5, 13):
        save_labels(plain / "labels" / "train" / f"{number}.png")
    (plain / "images" / "train" / "5.jpg").write_bytes(b"no image")
    dataset = open_segmentation(plain)
    assert len(dataset) == 7
    assert [line.split(" (")[0] for line in dataset.report.summary()] == [
        "images that cannot be read: 1, left out",
        "images whose size is not the one in their annotation: 1, left out",
        "images without a label map: 1, left out",
        "label maps that cannot be read: 2, image left out",
    ]
    assert "at most 178,956,970 pixels" in dataset.report.names(Problem.UNREADABLE_LABELS)[1]
    with pytest.raises(PliantError, match="must have no problems where strict=True"):
        open_segmentation(plain, strict=True)


def test_a_label_map_broken_behind_its_header_is_replaced_like_a_broken_image(
    plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rough = np.random.default_rng(0).integers(0, 3, (300, 400), dtype=np.uint8)
    save_noise(plain / "images" / "train" / "2.jpg", (400, 300))
    cut(save_labels(plain / "labels" / "train" / "2.png", rough))
    dataset = open_segmentation(plain)
    assert dataset.report.count() == 0
    with caplog.at_level(logging.WARNING):
        assert [dataset[index][1]["image_id"].item() for index in (0, 1, 1)] == [1, 3, 3]
    assert len(caplog.records) == 1
    assert dataset.report.names(Problem.BROKEN_PIXELS) == ["2.jpg"]
    assert len(open_segmentation(plain, verify="pixels")) == 3
    with pytest.raises(UnreadableImageError, match="it is broken"):
        open_segmentation(plain, strict=True)[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "ground\nground\n", "must give each class a name of its own; got 'ground'"),
        ("classes.txt", "", "must name two classes at least; got 0"),
        ("classes.json", '{"0": "ground", "255": "void"}', "must name values from 0 to 254; got value 255"),
        ("classes.json", '["ground", 3]', "must be a list of names"),
        ("classes.json", '{"one": "ground"}', "must be a list of names"),
        ("classes.json", '{"0": "ground", "1": "\\ud800"}', r"a name of its own; got '\\ud800'"),
        ("classes.json", '{"0": "ground", "1' + "0" * 5000 + '": "tree"}', "must be a list of names"),
        ("classes.txt", "ground\n\nhouse\n", "must give each class a name of its own; got ''"),
        ("classes.json", "{", "must be a json file"),
        ("classes.json", '"ground"', "must be a list of names"),
    ],
)
def test_broken_names_of_classes_are_refused(plain: Path, name: str, text: str, message: str) -> None:
    (plain / "classes.txt").unlink()
    (plain / name).write_text(text, encoding="utf-8")
    with pytest.raises(PliantError, match=message):
        open_segmentation(plain)


def test_other_folders_and_splits_are_refused_by_what_was_looked_for(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(PliantError, match=r"must be one of those in .*: 'train'; got 'trian'.* Did you mean 'train'"):
        open_segmentation(plain, "trian")
    (plain / "classes.txt").unlink()
    with pytest.raises(PliantError, match=r"must name its classes in classes\.txt or classes\.json; got neither"):
        open_segmentation(plain)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PliantError, match=r"known layout; got .*nothing in it; looked for ImageSets/Segmentation/val"):
        open_segmentation(tmp_path / "empty", "val")
    with pytest.raises(PliantError, match="data: must be a folder"):
        open_segmentation(tmp_path / "absent")
