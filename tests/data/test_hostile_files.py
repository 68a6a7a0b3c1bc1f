# SPDX-License-Identifier: Apache-2.0
"""Files of strangers: devices and pipes, bombs, hidden files, what is no text; each costs one line and no memory."""

from __future__ import annotations

import json
import os
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.data_sets import Make, save_noise, voc_object, voc_xml
from pliant._check import PliantError
from pliant._files import load_json, read_bounded
from pliant.data import Problem, open_classification, open_detection, open_segmentation, read_image
from pliant.data.detection.masks import BadMaskError, encode_segmentation
from pliant.data.detection.voc import parse_xml
from pliant.data.files import image_names, lines_of


@pytest.fixture(params=["device", "pipe", "folder", "loop", "nowhere"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that never ends, never answers, or is no file."""
    path = tmp_path / "file"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "nowhere": tmp_path / "absent"}[request.param])
    return path


@pytest.mark.parametrize("read", [load_json, lines_of, parse_xml, read_bounded, read_image])
def test_what_is_no_file_is_refused_at_once(no_file: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(PliantError, match="must be a"):
        read(no_file)


def test_one_device_among_the_files_of_a_split_costs_one_image(make_coco: Make, make_voc: Make, no_file: Path) -> None:
    coco = make_coco()
    (coco / "train2017" / "2.jpg").unlink()
    (coco / "train2017" / "2.jpg").symlink_to(no_file)
    assert open_detection(coco, "train").report.names(Problem.MISSING_IMAGE) == ["2.jpg"]


def test_one_device_among_the_xml_costs_one_image(make_voc: Make, no_file: Path) -> None:
    voc = make_voc({"a": voc_xml(), "b": voc_xml(file_name="b.jpg")})
    (voc / "Annotations" / "b.xml").unlink()
    (voc / "Annotations" / "b.xml").symlink_to(no_file)
    (voc / "ImageSets" / "Main" / "other.txt").symlink_to(no_file)
    assert open_detection(voc, "train").report.names(Problem.MISSING_ANNOTATION) == ["b.xml"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding"),
        ('<?xml version="1.0" encoding="utf-7"?><annotation/>', "must be xml in a known encoding"),
        ("<a>" * 101 + "</a>" * 101, "has more than 250000 elements, or 100 inside each other"),
        ("<a>" + "<b/>" * 250_000 + "</a>", "has more than 250000 elements, or 100 inside each other"),
        ("<a>" + " " * (8 * 2**20) + "</a>", "must have at most 8,388,608 bytes"),
        ("<a>\x00</a>", "not well-formed"),
    ],
)
def test_xml_that_would_not_end_well_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(PliantError, match=reason):
        parse_xml(tmp_path / "a.xml")


@pytest.mark.parametrize("size", ["<width>1e300</width><height>9</height>", "<width>nan</width><height>inf</height>"])
def test_sizes_that_no_image_has_are_not_taken(make_voc: Make, size: str) -> None:
    text = voc_xml(size=None).replace("</annotation>", f"<size>{size}</size></annotation>")
    report = open_detection(make_voc({"a": text}), "train").report
    assert (report.count(Problem.UNKNOWN_SIZE), report.images) == (1, 1)


def test_a_polygon_costs_memory_by_its_own_size() -> None:
    zigzag = [value for i in range(8000) for value in (4000 * (i % 2), i % 3)]  # 65 kB of json, 32 million pixels
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadMaskError, match="polygons with edges of 3"):
        encode_segmentation([zigzag], 4000, 4000)
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@pytest.mark.slow
def test_sixteen_bits_cost_no_more_memory_than_eight(tmp_path: Path) -> None:
    Image.fromarray(np.full((8000, 8000), 65535, np.uint16)).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_image(tmp_path / "a.png")[:, -1, -1].tolist() == [255, 255, 255]
    # 64 megapixels: 128 MB in the file's type, twice while it is decoded, 64 MB grey and 192 MB in colour.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000


def test_hidden_files_are_no_classes_and_no_images(tmp_path: Path) -> None:
    for name in ("ash/1.jpg", "oak/1.jpg", "oak/._1.jpg", "oak/.ipynb_checkpoints/1.jpg", "__MACOSX/oak/._1.jpg"):
        save_noise(tmp_path / "train" / name)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    save_noise(tmp_path / ".cache" / "oak" / "1.jpg")
    dataset = open_classification(tmp_path)
    assert (dataset.class_names, len(dataset)) == (["ash", "oak"], 2)
    hidden = dataset.report.names(Problem.HIDDEN_FILE)
    assert sorted(hidden) == ["._1.jpg", ".ipynb_checkpoints", ".ipynb_checkpoints", "__MACOSX"]
    assert list(image_names(tmp_path / "train")) == ["ash/1.jpg", "oak/1.jpg"]


def test_hidden_files_are_no_annotations(make_coco: Make, make_voc: Make) -> None:
    coco = make_coco()
    for place in ("annotations/._instances_train2014.json", "._train.json"):
        (coco / place).write_bytes(b"\x00\x05\x16\x07")
    assert len(open_detection(coco, "train")) == 4


def test_hidden_files_are_no_images_of_voc(make_voc: Make) -> None:
    voc = make_voc({"a": voc_xml()})
    for place in ("JPEGImages/._a.jpg", "Annotations/._a.xml", "ImageSets/Main/._train.txt"):
        (voc / place).write_bytes(b"\x00\x05\x16\x07")
    report = open_detection(voc, "train").report
    assert report.names(Problem.HIDDEN_FILE) == ["._a.jpg"]
    assert report.count() == 1


def test_hidden_files_are_no_label_maps(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [2, 0, 1]], dtype=np.uint8)
    for folder in ("images", "labels"):
        (tmp_path / folder / "train").mkdir(parents=True)
        (tmp_path / folder / "train" / "._a.png").write_bytes(b"\x00\x05\x16\x07")
        Image.fromarray(values).save(tmp_path / folder / "train" / "a.png")
    (tmp_path / "classes.txt").write_bytes("空\n树\n屋\n".encode("utf-16"))
    dataset = open_segmentation(tmp_path)
    assert (len(dataset), dataset.class_names) == (1, ["空", "树", "屋"])
    assert dataset.report.names(Problem.HIDDEN_FILE) == ["._a.png"]


def test_texts_in_other_encodings(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\n  b\r\n\r\n")
    assert lines_of(file) == ["a", "b"]
    file.write_bytes(b"\xff\xfea\x00\x00")
    with pytest.raises(PliantError, match="must be a text in UTF-8"):
        lines_of(file)
    file.write_bytes(b"caf\xe9\n")
    assert os.fsencode(lines_of(file)[0]) == b"caf\xe9"


def test_names_that_are_no_utf8_find_their_files(make_voc: Make) -> None:
    root = make_voc({"a": voc_xml(voc_object("oak", 1, 2, 30, 9))})
    for place in ("JPEGImages/{}.jpg", "Annotations/{}.xml"):
        (root / place.format("a")).rename(
            os.fsdecode(os.fsencode(root) + b"/" + place.format("caf\udce9").encode("utf-8", "surrogateescape"))
        )
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(b"caf\xe9\n")
    dataset = open_detection(root, "train")
    assert json.dumps(dataset.image_info(0).file_name) == r'"caf\udce9.jpg"'
    assert dataset.report.summary() == [
        r"annotation files that name another image: 1, taken by their own name (caf\udce9.xml names a.jpg)"
    ]
