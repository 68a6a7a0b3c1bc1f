# SPDX-License-Identifier: Apache-2.0
"""COCO json: what is read, what is left out by name, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.tv_tensors import BoundingBoxes

from helpers.data_sets import HEIGHT, WIDTH, Make, save_noise
from pliant._check import PliantError
from pliant.data import Category, Problem, detection_transforms, open_detection


def test_labels_follow_the_ids_and_boxes_become_corners(make_coco: Make) -> None:
    root = make_coco(
        [
            {"bbox": [3, 4, 20, 10], "category_id": 9, "area": 77.5},
            {
                "bbox": [0.5, 1.25, 7, 30.5],
                "category_id": 5,
                "iscrowd": 1,
                "segmentation": {"counts": "a", "size": [1, 1]},
            },
        ]
    )
    dataset = open_detection(root, "train")
    image, target = dataset[0]
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.uint8)
    assert isinstance(target["boxes"], BoundingBoxes)
    assert target["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert target["boxes"].tolist() == [[3, 4, 23, 14], [0.5, 1.25, 7.5, 31.75]]
    assert target["labels"].tolist() == [2, 1]
    assert target["area"].tolist() == [77.5, 213.5]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["image_id"].item() == 10
    assert dataset.class_names == ["ash", "oak"]
    assert dataset.categories == (Category(5, "ash"), Category(9, "oak"))
    assert dataset.report.summary() == ["no problems"]
    assert (dataset.report.images, dataset.report.boxes) == (4, 2)
    assert (dataset.report.crowd_boxes, dataset.report.empty_images) == (1, 3)


def test_an_image_without_boxes_has_empty_tensors_of_the_right_shape(make_coco: Make) -> None:
    target = open_detection(make_coco([BOX]), "train")[1][1]
    assert {name: tuple(value.shape) for name, value in target.items()} == {
        "boxes": (0, 4), "labels": (0,), "image_id": (), "area": (0,), "iscrowd": (0,)
    }  # fmt: skip


def test_the_ground_truth_has_the_ids_of_the_source(make_coco: Make) -> None:
    root = make_coco([{"bbox": [3, 4, 20, 10], "category_id": 9, "id": 123, "area": 77.5, "image_id": 30}])
    truth = open_detection(root, "train").coco_ground_truth()
    assert truth["annotations"] == [
        {"id": 123, "image_id": 30, "category_id": 9, "bbox": [3, 4, 20, 10], "area": 77.5, "iscrowd": 0}
    ]
    assert truth["images"][2] == {"id": 30, "file_name": "3.jpg", "width": WIDTH, "height": HEIGHT}
    assert truth["categories"] == [{"id": 5, "name": "ash"}, {"id": 9, "name": "oak"}]


@pytest.mark.parametrize(
    ("change", "problem", "place"),
    [
        ({"bbox": [3, 4, 0, 10]}, Problem.EMPTY_BOX, "1.jpg, annotation 1: 0x10"),
        ({"bbox": [3, 4, 5, -2]}, Problem.EMPTY_BOX, "1.jpg, annotation 1: 5x-2"),
        ({"bbox": [3, 4, float("nan"), 2]}, Problem.INVALID_BOX, "1.jpg, annotation 1"),
        ({"bbox": [3, float("inf"), 1, 2]}, Problem.INVALID_BOX, "1.jpg, annotation 1"),
        ({"bbox": [3, 4, 5]}, Problem.INVALID_BOX, "1.jpg, annotation 1"),
        ({"bbox": [3, 4, "5", 6]}, Problem.INVALID_BOX, "1.jpg, annotation 1"),
        ({"bbox": [10**400, 4, 5, 6]}, Problem.INVALID_BOX, "1.jpg, annotation 1"),
        ({}, Problem.INVALID_BOX, "1.jpg, annotation 1"),
        ({"bbox": [WIDTH, 4, 5, 6]}, Problem.OUTSIDE_BOX, "1.jpg, annotation 1"),
        ({"bbox": [3, 4, 5, 6], "category_id": 7}, Problem.UNKNOWN_CATEGORY, "1.jpg, annotation 1: category 7"),
        ({"bbox": [3, 4, 5, 6], "category_id": None}, Problem.UNKNOWN_CATEGORY, "1.jpg, annotation 1: category None"),
        ({"bbox": [3, 4, 5, 6], "image_id": 11}, Problem.UNKNOWN_IMAGE, "annotation 1 of image 11"),
    ],
)
def test_a_bad_box_is_left_out_by_name(make_coco: Make, change: dict[str, Any], problem: Problem, place: str) -> None:
    dataset = open_detection(make_coco([change, {"bbox": [1, 2, 30, 9]}]), "train")
    assert dataset.report.summary() == [f"{problem.text}: 1, left out ({place})"]
    assert dataset[0][1]["boxes"].tolist() == [[1, 2, 31, 11]]
    assert [row["id"] for row in dataset.coco_ground_truth()["annotations"]] == [2]


def test_a_box_beyond_the_border_is_cut_there_and_counted(make_coco: Make) -> None:
    dataset = open_detection(make_coco([{"bbox": [-4, 30, 20, 13]}, {"bbox": [50, 0, 10.005, 5]}]), "train")
    assert dataset[0][1]["boxes"].tolist() == [[0, 30, 16, 40], [50, 0, 60, 5]]
    assert dataset.report.names(Problem.CLIPPED_BOX) == ["1.jpg, annotation 1: 4 pixels beyond"]


def test_missing_images_are_left_out_by_name(make_coco: Make) -> None:
    root = make_coco([{"bbox": [1, 2, 3, 4], "image_id": 40}])
    (root / "train2017" / "2.jpg").unlink()
    dataset = open_detection(root, "train")
    assert dataset.report.summary() == ["images that are not there: 1, left out (2.jpg)"]
    assert [dataset.image_info(i).id for i in range(len(dataset))] == [10, 30, 40]
    assert dataset[2][1]["boxes"].tolist() == [[1, 2, 4, 6]]


def test_half_of_the_images_must_be_in_order(make_coco: Make) -> None:
    folder = make_coco(None, 5) / "train2017"
    for name in ("1.jpg", "3.jpg"):
        (folder / name).unlink()
    assert len(open_detection(folder.parent, "train")) == 3
    (folder / "4.jpg").unlink()
    with pytest.raises(
        PliantError, match=r"'train': must have at least half of its images in order; got 2 of 5; images"
    ):
        open_detection(folder.parent, "train")


def test_an_image_of_another_size_than_stated_is_left_out_by_name(make_coco: Make) -> None:
    root = make_coco()
    save_noise(root / "train2017" / "3.jpg", (WIDTH, HEIGHT + 1))
    report = open_detection(root, "train").report
    assert report.names(Problem.WRONG_SIZE) == [
        f"3.jpg: has {WIDTH}x{HEIGHT + 1}, its annotation says {WIDTH}x{HEIGHT}"
    ]
    assert report.images == 3


@pytest.mark.parametrize(
    ("key", "entries", "problem", "place"),
    [
        ("images", [{"id": 10, "file_name": "2.jpg"}], Problem.INVALID_IMAGE, "images[4] with id 10 a second time"),
        ("images", [{"id": "1"}], Problem.INVALID_IMAGE, "images[4] without a whole number as its id"),
        ("images", [{"id": 1.0}], Problem.INVALID_IMAGE, "images[4] without a whole number as its id"),
        ("images", [{"id": True}], Problem.INVALID_IMAGE, "images[4] without a whole number as its id"),
        ("images", [{"id": 2**63}], Problem.INVALID_IMAGE, "images[4] without a whole number as its id"),
        ("images", [["id", 1]], Problem.INVALID_IMAGE, "images[4] without a whole number as its id"),
        ("images", [{"id": 1}], Problem.INVALID_IMAGE, "images[4] without a file name"),
        ("images", [{"id": 1, "file_name": 7}], Problem.INVALID_IMAGE, "images[4] without a file name"),
        ("images", [{"id": 1, "file_name": "../1.jpg"}], Problem.UNSAFE_NAME, "images[4]: '../1.jpg'"),
        ("images", [{"id": 1, "file_name": "a\\..\\1"}], Problem.UNSAFE_NAME, "images[4]: 'a\\\\..\\\\1'"),
        ("images", [{"id": 1, "file_name": "/1.jpg"}], Problem.UNSAFE_NAME, "images[4]: '/1.jpg'"),
        ("images", [{"id": 1, "file_name": "C:1.jpg"}], Problem.UNSAFE_NAME, "images[4]: 'C:1.jpg'"),
        ("images", [{"id": 1, "file_name": "1\ud800"}], Problem.UNSAFE_NAME, "images[4]: '1\\ud800'"),
        ("images", [{"id": 1, "file_name": "a" * 999}], Problem.MISSING_IMAGE, "a" * 999),
        ("categories", [{"id": 9, "name": "b"}], Problem.INVALID_CATEGORY, "categories[2] with id 9 a second time"),
        ("categories", [{"id": 1}], Problem.INVALID_CATEGORY, "categories[2] without a name"),
        ("categories", [{"id": 1, "name": "\ud83d"}], Problem.INVALID_CATEGORY, "categories[2] without a name"),
        ("annotations", [None], Problem.INVALID_ANNOTATION, "annotations[4] without a whole number as its id"),
        ("annotations", [{"id": 1e30}], Problem.INVALID_ANNOTATION, "annotations[4] without a whole number as its id"),
        ("annotations", [{"id": 3}], Problem.INVALID_ANNOTATION, "annotations[4] with id 3 a second time"),
    ],
)
def test_a_bad_entry_is_left_out_and_the_others_stay(
    make_coco: Make, key: str, entries: list[Any], problem: Problem, place: str
) -> None:
    file = make_coco() / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, key: content[key] + entries}))
    dataset = open_detection(file.parent.parent, "train")
    assert dataset.report.names(problem) == [place]
    assert dataset.report.count() == 1
    assert len(dataset) == 4 and dataset.report.boxes == 4 and dataset.class_names == ["ash", "oak"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"categories": []}, "categories: must be categories with an id and a name; got none"),
        ({"categories": [{"id": "4", "name": "a"}]}, "categories: must be categories with an id and a name; got none"),
        (
            {"images": [{"id": 1, "file_name": "../1.jpg"}]},
            "must have at least half of its images in order; got 0 of 1",
        ),
        ({"images": []}, "must list images; got none"),
        ({"images": {"id": 1}}, "must be COCO json, an object with a list of objects 'images'; got a dict"),
        ({"annotations": None}, "an object with a list of objects 'annotations'; got a NoneType"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(make_coco: Make, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError, match=message) as raised:
        open_detection(make_coco(**parts), "train")
    assert "\n" not in str(raised.value)


BOX = {"bbox": [3, 4, 20, 10]}


@pytest.mark.parametrize(
    ("annotations", "got"),
    [
        ([], "it lists no boxes"),
        ([{**BOX, "iscrowd": 1}] * 3, r"got 0 of 3; most of the others are crowds or difficult objects \(3\)"),
        ([{}, {}, BOX], r"got 1 of 3; most of the others are boxes that are not four finite numbers \(2\)"),
        ([{**BOX, "image_id": "10"}] * 2, r"got 0 of 2; most of the others are boxes of images that are not listed"),
        ([{**BOX, "category_id": "5"}] * 2, r"got 0 of 2; most of the others are boxes of a category that is not"),
        (
            [{"bbox": [0.25, 0.5, 0.5, 0.25]}] * 2 + [{}],
            r"got 0 of 3; most of the others are boxes in 0\.\.1, .* \(2\)",
        ),
        (
            [{**BOX, "iscrowd": "no"}, {}, {**BOX, "iscrowd": []}],
            r"got 0 of 3; .* boxes whose iscrowd is neither 0 nor 1 \(2\)",
        ),
    ],
)
def test_data_that_nothing_can_be_learned_from_are_refused(
    make_coco: Make, annotations: list[dict[str, Any]], got: str
) -> None:
    with pytest.raises(PliantError, match=f"must have boxes to learn from, and lose fewer than half of them; {got}"):
        open_detection(make_coco(annotations), "train")


@pytest.mark.parametrize(("flag", "crowd"), [("0", 0), ("1", 1), (False, 0), (True, 1), (1.0, 1)])
def test_flags_of_crowds_are_read_as_what_they_say(make_coco: Make, flag: object, crowd: int) -> None:
    assert open_detection(make_coco([BOX, {**BOX, "iscrowd": flag}]), "train")[0][1]["iscrowd"].tolist() == [0, crowd]


@pytest.mark.parametrize(
    ("bbox", "problem"),
    [
        ([5, 6, 1e-6, 9], Problem.TINY_BOX),
        ([0, 6, 1e-4, 9], Problem.TINY_BOX),
        ([WIDTH - 1e-6, 6, 20, 9], Problem.TINY_BOX),
        ([0.1, 0.2, 0.9, 0.5], Problem.NORMALISED_BOX),
        ([0, 0, 1, 1], Problem.NORMALISED_BOX),
        ([0.9, 0.8, 0.4, 0.3], Problem.NORMALISED_BOX),
        ([1e308, 6, 1e308, 9], Problem.INVALID_BOX),
        ([True, 6, 4, 9], Problem.INVALID_BOX),
    ],
)
def test_boxes_that_no_float32_holds_and_shares_of_the_image_are_left_out(
    make_coco: Make, bbox: list[float], problem: Problem
) -> None:
    dataset = open_detection(make_coco([{"bbox": bbox}, BOX, {"bbox": [0, 0, 0.5, 2]}]), "train")
    assert (dataset.report.count(problem), dataset.report.count(), dataset.report.boxes) == (1, 1, 2)
    mirrored = detection_transforms(flip=1.0)(*dataset[0])[1]["boxes"]
    assert ((mirrored[:, 2:] - mirrored[:, :2]) > 0).all()


def test_an_area_that_no_image_has_is_that_of_the_box(make_coco: Make) -> None:
    annotations = [{**BOX, "area": area} for area in (1e300, -3, "7", 10**400, WIDTH * HEIGHT)]
    areas = open_detection(make_coco(annotations), "train")[0][1]["area"].tolist()
    assert areas == [200, 200, 200, 200, WIDTH * HEIGHT]


def test_names_cannot_steer_the_terminal(make_coco: Make) -> None:
    listed = [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 5)]
    root = make_coco(
        [{**BOX, "image_id": i} for i in (1, 2, 3)],
        images=[*listed, {"id": 9, "file_name": "\x1b[2J\n\u202e.jpg", "width": 3, "height": 2}],
    )
    lines = open_detection(root, "train").report.summary()
    assert lines[0] == r"images that are not there: 1, left out (\x1b[2J\n\u202e.jpg)"
    assert str(PliantError("a\nb\x1b[0m")) == r"a b\x1b[0m"


@pytest.mark.parametrize("text", ["{", "[1, 2]", "[" * 100_000, "\xff\xfe", "9" * 5000, "\xef\xbb\xbf["])
def test_a_file_that_is_no_coco_json_is_refused(make_coco: Make, text: str) -> None:
    root = make_coco()
    (root / "annotations" / "instances_train2017.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PliantError, match=r"instances_train2017\.json: must be"):
        open_detection(root, "train")


@pytest.mark.parametrize(
    ("json_place", "images_place"),
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/val.json", "images"),
        ("val.json", "images/val"),
        ("val.json", "."),
        ("val/_annotations.coco.json", "val"),
    ],
)
def test_the_usual_places_are_found(make_coco: Make, tmp_path: Path, json_place: str, images_place: str) -> None:
    file = make_coco([{"bbox": [1, 2, 3, 4]}]) / "annotations" / "instances_train2017.json"
    (tmp_path / json_place).parent.mkdir(exist_ok=True)
    file.rename(tmp_path / json_place)
    for image in sorted((tmp_path / "train2017").iterdir()):
        (tmp_path / images_place).mkdir(parents=True, exist_ok=True)
        image.rename(tmp_path / images_place / image.name)
    dataset = open_detection(tmp_path, "val")
    assert dataset.report.summary() == ["no problems"]
    assert dataset.image_info(3).path == tmp_path / images_place / "4.jpg"


def test_two_years_of_a_split_are_told_apart(make_coco: Make) -> None:
    folder = make_coco() / "annotations"
    text = (folder / "instances_train2017.json").read_text()
    (folder / "instances_train2014.json").write_text(text)
    with pytest.raises(PliantError, match="split: must name one split; got 'train' for train2014, train2017"):
        open_detection(folder.parent, "train")
    assert len(open_detection(folder.parent, "train2017")) == 4


def test_images_that_are_nowhere_are_refused_with_the_places(make_coco: Make) -> None:
    root = make_coco()
    (root / "train2017").rename(root / "pictures")
    with pytest.raises(PliantError, match=r"none of 1\.jpg, 2\.jpg, 3\.jpg in train2017, train, images/train2017"):
        open_detection(root, "train")


def test_labels_follow_a_trained_model_by_name(make_coco: Make) -> None:
    boxes = [{"bbox": [1, 2, 3, 4], "category_id": 9}, {"bbox": [1, 2, 30, 4], "category_id": 5}]
    known = [Category(1, "elm"), Category(2, "oak")]
    dataset = open_detection(make_coco(boxes), "train", categories=known)
    assert dataset[0][1]["labels"].tolist() == [2]
    assert dataset.report.summary() == [
        "boxes of a category that the model does not know: 1, left out (1.jpg, annotation 2: 'ash')"
    ]
    assert dataset.coco_ground_truth()["annotations"][0]["category_id"] == 2
    with pytest.raises(PliantError, match="must have boxes of the categories of the model, 'elm'; got 'ash', 'oak'"):
        open_detection(dataset.root, "train", categories=known[:1])


def test_categories_of_one_name_keep_their_ids(make_coco: Make) -> None:
    twins = [{"id": 0, "name": "cell"}, {"id": 4, "name": "cell"}]
    root = make_coco(
        [{"bbox": [1, 2, 3, 4], "category_id": 4}, {"bbox": [5, 6, 7, 8], "category_id": 0}], categories=twins
    )
    assert open_detection(root, "train")[0][1]["labels"].tolist() == [2, 1]


def test_strict_makes_any_problem_an_error(make_coco: Make) -> None:
    root = make_coco([{"bbox": [1, 2, 0, 4]}])
    with pytest.raises(
        PliantError, match=r"where strict=True; got boxes without area: 1, left out \(1.jpg, annotation 1"
    ):
        open_detection(root, "train", strict=True)


def test_the_report_goes_into_json(make_coco: Make) -> None:
    report = open_detection(make_coco([{"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 4]}]), "train").report
    assert json.loads(json.dumps(report.as_dict())) == {
        "images": 4, "boxes": 1, "crowd_boxes": 0, "empty_images": 3,
        "problems": [{"kind": "empty_box", "count": 1, "what": "boxes without area", "action": "left out",
                      "names": ["1.jpg, annotation 1: 0x4"]}],
    }  # fmt: skip
