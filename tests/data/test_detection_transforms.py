# SPDX-License-Identifier: Apache-2.0
"""Transforms: boxes stay on their objects, and what is cut away is cut by the rule."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, Image

from pliant.data import collate, detection_transforms, eval_transforms
from pliant.data.detection.transforms import RandomCrop, visible_fraction
from pliant.data.transforms import Target, rotate90

CORNERS = [[4, 3, 9, 5], [20, 10, 23, 18], [0, 0, 2, 19], [28, 1, 31, 4]]


def painted(crowd: tuple[int, ...] = (0, 0, 0, 0)) -> tuple[Tensor, Target]:
    """Return a black 19 x 31 image in which box i is filled with the value 50 * (i + 1), and its target."""
    image = torch.zeros(3, 19, 31, dtype=torch.uint8)
    for i, (x1, y1, x2, y2) in enumerate(CORNERS):
        image[:, y1:y2, x1:x2] = 50 * (i + 1)
    corners = torch.tensor(CORNERS, dtype=torch.float32)
    target = {
        "boxes": BoundingBoxes(corners, format="XYXY", canvas_size=(19, 31)),
        "labels": torch.arange(1, 5),
        "area": (corners[:, 2:] - corners[:, :2]).prod(-1),
        "iscrowd": torch.tensor(crowd, dtype=torch.uint8),
        "image_id": torch.tensor(7),
    }
    return Image(image), target


def assert_boxes_fit(image: Tensor, target: Target) -> None:
    """Each box must hold its own value everywhere, and reach the end of it on all sides."""
    values = (image[0].float() * (255 if image.is_floating_point() else 1)).round()
    for label, box in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
        rows, columns = (values == 50 * label).nonzero(as_tuple=True)
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
def test_quarter_turns_keep_boxes_on_their_objects(turns: int) -> None:
    image, target = painted()
    turned, moved = rotate90(image, target, turns)
    assert tuple(turned.shape[1:]) == ((31, 19) if turns % 2 else (19, 31))
    assert moved["boxes"].canvas_size == tuple(turned.shape[1:])
    assert_boxes_fit(turned, moved)
    assert torch.equal(turned[:, -5, 3], image[:, 3, 4]) or turns != 1  # (x, y) = (4, 3) goes to (3, 31 - 1 - 4)


def test_all_that_moves_boxes_together() -> None:
    transform = detection_transforms(crop=15, flip=0.5, vertical_flip=0.5, rotate90=True)
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = transform(*painted())
        assert type(image) is Tensor
        assert image.dtype == torch.float32
        assert tuple(image.shape) == (3, 15, 15)
        assert_boxes_fit(image, target)
        assert target["image_id"].item() == 7
        seen.update(target["labels"].tolist())
    assert seen == {1, 2, 3, 4}


def test_a_crop_keeps_boxes_by_the_part_that_is_visible() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 4], [6, 0, 16, 4], [20, 0, 30, 4]])
    assert visible_fraction(boxes, 4, 1, 8, 9).tolist() == pytest.approx([0.45, 0.45, 0.0])
    kept = [RandomCrop(15, part)(*painted())[1]["labels"].tolist() for part in (0.8, 0.01) for _ in range(40)]
    assert not any(3 in labels for labels in kept[:40])  # 15 / 19 = 0.79
    assert any(3 in labels for labels in kept[40:])


def test_a_cropped_box_has_the_area_that_is_left() -> None:
    smaller = 0
    for _ in range(20):
        image, target = RandomCrop(9, 0.2)(*painted())
        assert tuple(image.shape) == (3, 9, 9)
        assert_boxes_fit(image, target)
        for label, (x1, y1, x2, y2), area in zip(
            *(target[k].tolist() for k in ("labels", "boxes", "area")), strict=True
        ):
            assert area == (x2 - x1) * (y2 - y1)
            smaller += area < painted()[1]["area"][label - 1]
    assert smaller > 5


def test_windows_without_boxes_are_drawn_again() -> None:
    image = Image(torch.zeros(3, 400, 500, dtype=torch.uint8))
    target = {**painted()[1], "boxes": BoundingBoxes([[200.0, 150, 300, 250]], format="XYXY", canvas_size=(400, 500))}
    target |= {name: target[name][:1] for name in ("labels", "area", "iscrowd")}
    found = sum(len(RandomCrop(100)(image, target)[1]["labels"]) for _ in range(100))
    assert found > 50  # one draw alone finds it in about 10 of 100


def test_an_image_smaller_than_the_crop_is_kept_whole_on_that_axis() -> None:
    image, target = RandomCrop(25, 0.01)(*painted())
    assert tuple(image.shape) == (3, 19, 25)
    assert target["boxes"].canvas_size == (19, 25)


def test_crowds_are_not_trained_on() -> None:
    _, target = detection_transforms(flip=0)(*painted(crowd=(0, 1, 0, 0)))
    assert target["labels"].tolist() == [1, 3, 4]
    assert target["boxes"].tolist() == [CORNERS[i] for i in (0, 2, 3)]
    assert target["iscrowd"].tolist() == [0, 0, 0]
    _, kept = eval_transforms()(*painted(crowd=(0, 1, 0, 0)))
    assert kept["labels"].tolist() == [1, 2, 3, 4]


def test_no_boxes_pass_through_every_transform() -> None:
    image, target = painted(crowd=(1, 1, 1, 1))
    image, target = detection_transforms(crop=10, vertical_flip=1, rotate90=True, photometric=True)(image, target)
    assert tuple(target["boxes"].shape) == (0, 4)
    assert (image.min() >= 0) & (image.max() <= 1)


def test_the_seed_decides_and_photometric_changes_pixels_alone() -> None:
    transform = pickle.loads(pickle.dumps(detection_transforms(photometric=True, flip=0)))
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append([transform(*painted()) for _ in range(8)])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*results, strict=True))
    plain = eval_transforms()(*painted())[0]
    assert sum(not torch.equal(image, plain) for image, _ in results[0]) >= 4
    assert all(target["boxes"].tolist() == CORNERS for _, target in results[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop: must be a positive number of pixels; got 0; use 320 for instance, or None"),
        ({"flip": 1.5}, r"flip: must be a probability in \[0, 1\]; got 1.5; use 0.5"),
        ({"vertical_flip": -1}, r"vertical_flip: must be a probability in \[0, 1\]; got -1"),
        ({"crop": 9, "min_visible": 0}, r"min_visible: must be a fraction in \(0, 1\]; got 0; use 0.4"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detection_transforms(**options)  # type: ignore[arg-type]


def test_a_batch_is_two_lists() -> None:
    first, second = painted(), painted((1, 0, 0, 0))
    images, targets = collate([first, second])
    assert images[1] is second[0]
    assert targets[0] is first[1]
    assert (len(images), len(targets)) == (2, 2)
