# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC folders: the pixel convention, the categories, and xml from strangers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.data_sets import HEIGHT, WIDTH, Make, save_noise, voc_object, voc_xml
from pliant._check import PliantError
from pliant.data import Category, Problem, open_detection
from pliant.data.detection.voc import parse_xml


def test_boxes_are_one_based_and_inclusive(make_voc: Make) -> None:
    whole, pixel_pair = voc_object("elm", 1, 1, WIDTH, HEIGHT), voc_object("ash", 7, 9, 8, 9.5)
    dataset = open_detection(make_voc({"a": voc_xml(whole + pixel_pair)}), "train")
    target = dataset[0][1]
    assert target["boxes"].tolist() == [[0, 0, WIDTH, HEIGHT], [6, 8, 8, 9.5]]
    assert target["labels"].tolist() == [2, 1]
    assert target["area"].tolist() == [WIDTH * HEIGHT, 3]
    assert dataset.categories == (Category(1, "ash"), Category(2, "elm"))
    assert dataset.report.summary() == ["no problems"]


def test_categories_are_those_of_every_split(make_voc: Make) -> None:
    root = make_voc(
        {"a": voc_xml(voc_object("oak", 1, 1, 9, 9))}, {"b": voc_xml(voc_object("ash", 1, 1, 9, 9), file_name="b.jpg")}
    )
    train, val = open_detection(root, "train"), open_detection(root, "val")
    assert train.class_names == val.class_names == ["ash", "oak"]
    assert (train[0][1]["labels"].item(), val[0][1]["labels"].item()) == (2, 1)


def test_difficult_objects_are_crowds_of_the_metric(make_voc: Make) -> None:
    dataset = open_detection(
        make_voc({"a": voc_xml(voc_object("oak", 1, 2, 9, 8, difficult=1) + voc_object("oak", 1, 2, 9, 8))}), "train"
    )
    assert dataset[0][1]["iscrowd"].tolist() == [1, 0]
    assert dataset.coco_ground_truth()["annotations"][:1] == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 1, 9, 7], "area": 63, "iscrowd": 1}
    ]


@pytest.mark.parametrize(
    ("box", "problem", "place"),
    [
        (voc_object("oak", 5, 5, 5, 5), Problem.EMPTY_BOX, "a.jpg, object 1: 0x0"),
        (voc_object("oak", 9, 5, 4, 7), Problem.EMPTY_BOX, "a.jpg, object 1: -5x3"),
        (voc_object("oak", "nan", 5, 4, 7), Problem.INVALID_BOX, "a.jpg, object 1"),
        (voc_object("oak", "left", 5, 4, 7), Problem.INVALID_BOX, "a.jpg, object 1"),
        ("<object><name>oak</name></object>", Problem.INVALID_BOX, "a.jpg, object 1"),
        (voc_object(" ", 1, 2, 3, 4), Problem.UNKNOWN_CATEGORY, "a.jpg, object 1 without a name: category None"),
        (voc_object("oak", 1, HEIGHT + 9, 3, HEIGHT + 19), Problem.OUTSIDE_BOX, "a.jpg, object 1"),
    ],
)
def test_a_bad_box_is_left_out_by_name(make_voc: Make, box: str, problem: Problem, place: str) -> None:
    dataset = open_detection(make_voc({"a": voc_xml(box + voc_object("oak", 1, 2, 30, 4))}), "train")
    assert dataset.report.summary() == [f"{problem.text}: 1, left out ({place})"]
    assert dataset[0][1]["boxes"].tolist() == [[0, 1, 30, 4]]


@pytest.mark.parametrize(
    ("text", "problem", "place"),
    [
        (voc_xml(size=None), Problem.UNKNOWN_SIZE, f"b.jpg: {WIDTH}x{HEIGHT}"),
        (voc_xml(size=(0, 0)), Problem.UNKNOWN_SIZE, f"b.jpg: {WIDTH}x{HEIGHT}"),
        (voc_xml(size=(9, 8)), Problem.WRONG_SIZE, f"b.jpg: has {WIDTH}x{HEIGHT}, its annotation says 9x8"),
        (
            "<annotation><obj",
            Problem.UNREADABLE_ANNOTATION,
            "b.xml: must be xml in a known encoding; unclosed token: line 1, column 12; replace it",
        ),
        (
            "",
            Problem.UNREADABLE_ANNOTATION,
            "b.xml: must be xml in a known encoding; no element found: line 1, column 0; replace it",
        ),
    ],
)
def test_a_bad_annotation_is_named(make_voc: Make, text: str, problem: Problem, place: str) -> None:
    named = text.replace("a.jpg", "b.jpg")
    dataset = open_detection(make_voc({"a": voc_xml(voc_object("oak", 1, 2, 3, 4)), "b": named}), "train")
    assert dataset.report.count() == 1
    assert dataset.report.names(problem) == [place]
    assert len(dataset) == (2 if problem is Problem.UNKNOWN_SIZE else 1)


def test_missing_xml_repeated_names_and_other_file_names_are_named(make_voc: Make) -> None:
    box = voc_object("oak", 1, 2, 3, 4)
    root = make_voc({name: voc_xml(box, file_name="a.png") for name in "abcd"})
    (root / "Annotations" / "c.xml").unlink()
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n\nd\na\n")
    dataset = open_detection(root, "train")
    assert dataset.report.names(Problem.MISSING_ANNOTATION) == ["c.xml"]
    assert dataset.report.names(Problem.REPEATED_IMAGE) == ["a"]
    assert dataset.report.names(Problem.OTHER_FILE_NAME) == ["b.xml names a.png", "d.xml names a.png"]
    assert [dataset.image_info(i).file_name for i in range(3)] == ["a.jpg", "b.jpg", "d.jpg"]


def test_of_two_files_of_a_name_the_xml_decides(make_voc: Make) -> None:
    root = make_voc({"a": voc_xml(file_name="a.png")})
    save_noise(root / "JPEGImages" / "a.png")
    assert open_detection(root, "train").image_info(0).file_name == "a.png"


def test_file_names_with_spaces_and_several_dots(make_voc: Make) -> None:
    name = "Pigeon Lake 2.5 m"
    dataset = open_detection(make_voc({name: voc_xml(file_name=f"{name}.jpg")}), "train")
    assert dataset.report.summary() == ["no problems"]
    assert dataset.image_info(0).file_name == f"{name}.jpg"


def test_a_list_of_names_cannot_leave_the_folder(make_voc: Make) -> None:
    root = make_voc({"a": voc_xml()})
    (root / "ImageSets" / "Main" / "train.txt").write_text("../../secret\na\n")
    dataset = open_detection(root, "train")
    assert (len(dataset), dataset.report.names(Problem.UNSAFE_NAME)) == (1, ["../../secret"])


BILLION_LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
)


@pytest.mark.parametrize("head", [BILLION_LAUGHS, '<!DOCTYPE x SYSTEM "file:///etc/passwd">'])
def test_document_types_are_refused_before_they_expand(tmp_path: Path, head: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(voc_xml(file_name="&j;", head=head))
    with pytest.raises(PliantError, match="declares a document type"):
        parse_xml(file)


@pytest.mark.parametrize("home", ["VOC2007", "VOCdevkit/VOC2012"])
def test_the_folders_of_the_devkit_are_found(make_voc: Make, home: str) -> None:
    root = make_voc({"a": voc_xml(voc_object("oak", 1, 2, 3, 4))}, home=home)
    assert open_detection(root, "train").image_info(0).path == root / home / "JPEGImages" / "a.jpg"


def test_two_years_of_the_devkit_are_told_apart(make_voc: Make) -> None:
    root = make_voc({"a": voc_xml()}, home="VOC2007")
    shutil.copytree(root / "VOC2007", root / "VOC2012")
    with pytest.raises(PliantError, match="must hold one VOC folder; got VOC2007, VOC2012; give the path of one"):
        open_detection(root, "train")


def test_xml_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split, name in (("train", "oak"), ("valid", "ash")):
        save_noise(tmp_path / split / "a.jpg")
        (tmp_path / split / "a.xml").write_text(voc_xml(voc_object(name, 1, 2, 3, 4)))
    dataset = open_detection(tmp_path, "valid")
    assert dataset.class_names == ["ash", "oak"]
    assert dataset.image_info(0).path == tmp_path / "valid" / "a.jpg"
    with pytest.raises(PliantError, match=r"'train', 'valid'; got 'val'; give one of them\. Did you mean 'valid'\?"):
        open_detection(tmp_path, "val")


def test_a_list_of_one_class_is_no_split(make_voc: Make) -> None:
    root = make_voc({"a": voc_xml()})
    (root / "ImageSets" / "Main" / "oak_train.txt").write_text("a -1\nb  1\n")
    with pytest.raises(PliantError, match=r"must be one of those in .*: 'train', 'val'; got 'oak_train'; .* 'train'\?"):
        open_detection(root, "oak_train")


def test_folders_without_lists_of_splits_are_told_what_is_missing(make_voc: Make) -> None:
    root = make_voc({"a": voc_xml()})
    shutil.rmtree(root / "ImageSets")
    with pytest.raises(
        PliantError, match=r"got no folder ImageSets/Main; list the images .* ImageSets/Main/train\.txt"
    ):
        open_detection(root, "train")


def test_an_unknown_folder_is_refused_with_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    save_noise(tmp_path / "photo.jpg")
    (tmp_path / "labels").mkdir()
    with pytest.raises(PliantError, match=r"with labels/, photo\.jpg; looked for annotations/instances_train\.json, "):
        open_detection(tmp_path, "train")
    with pytest.raises(PliantError, match="data: must be a folder; got .*photo.jpg; no such folder is there"):
        open_detection(tmp_path / "photo.jpg", "train")
