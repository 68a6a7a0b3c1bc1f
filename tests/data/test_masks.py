# SPDX-License-Identifier: Apache-2.0
"""Masks of objects: coding, what hostile files are refused, both layouts, and the transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycocotools

from helpers.data_sets import HEIGHT, WIDTH, Make, voc_object, voc_xml
from pliant._check import PliantError
from pliant.data import Problem, collate, detection_transforms, open_detection
from pliant.data.detection.masks import (
    BadMaskError,
    coco_segmentation,
    decode_masks,
    encode_masks,
    encode_segmentation,
    mask_area,
)
from pliant.data.detection.transforms import RandomCrop
from pliant.data.transforms import rotate90

# pycocotools, which only checks us here, is older than NumPy 2's rules of copying.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 11))


def drawn(height: int, width: int, seed: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(3, height, width, generator=generator) < share).to(torch.uint8)


@given(SIZES, st.integers(0, 2**31), st.floats(0, 1))
def test_masks_come_back_and_are_coded_as_pycocotools_does(size: tuple[int, int], seed: int, share: float) -> None:
    masks = drawn(*size, seed, share)
    runs = encode_masks(masks)
    assert torch.equal(decode_masks(runs, *size), masks)
    fortran = np.asfortranarray(masks.permute(1, 2, 0).numpy())
    assert runs == [run["counts"] for run in pycocotools.encode(fortran)]
    assert [mask_area(run, *size) for run in runs] == masks.sum((1, 2)).tolist()


@given(SIZES, st.integers(0, 2**31), st.floats(0, 1))
def test_both_forms_of_run_lengths_are_read(size: tuple[int, int], seed: int, share: float) -> None:
    mask = drawn(*size, seed, share)[0]
    columns = mask.T.flatten().tolist()  # COCO counts down the columns, zeros first
    counts, value = [0], 0
    for pixel in columns:
        if pixel != value:
            counts, value = [*counts, 0], pixel
        counts[-1] += 1
    compressed = encode_masks(mask[None])[0]
    assert encode_segmentation({"size": list(size), "counts": counts}, *size) == compressed
    assert encode_segmentation(coco_segmentation(compressed, *size), *size) == compressed


def test_polygons_are_filled_as_pycocotools_does_and_joined() -> None:
    polygons = [[1.5, 2, 17, 3.2, 9, 11.5], [20, 1, 27.5, 1, 27.5, 14, 20, 14]]
    runs = encode_segmentation(polygons, 15, 28)
    expected = pycocotools.merge(pycocotools.frPyObjects(polygons, 15, 28))
    assert runs == expected["counts"]
    assert mask_area(runs, 15, 28) == pycocotools.area(expected) > 100


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ("triangle", "neither polygons nor run lengths"),
        ([], "neither polygons nor run lengths"),
        ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon that is no list of finite numbers"),
        ([[1, 2, 3, 4, 5, True]], "a polygon that is no list of finite numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "a polygon that is no list of finite numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "a polygon far outside the image"),
        ([[0, 0, 12, 8] * 2**16], f"polygons with edges of {13 * 2**17} pixels in all"),
        ([[1, 1] * (2**20 + 1)], f"polygons with edges of {2**20 + 1} pixels in all"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "run lengths of a mask of another size than 4x6"),
        ({"size": [4, 6], "counts": [10, 20]}, "run lengths of 30 pixels in place of 24"),
        ({"size": [4, 6], "counts": [30, -6]}, "run lengths that are no list of integers from 0"),
        ({"size": [4, 6], "counts": [24.0]}, "run lengths that are no list of integers from 0"),
        ({"size": [4, 6]}, "run lengths that are no list of integers from 0"),
        ({"size": [4, 6], "counts": "h0h"}, "run lengths in a text that is not COCO's, or is cut off"),
        ({"size": [4, 6], "counts": "h\n"}, "run lengths in a text that is not COCO's, or is cut off"),
        ({"size": [4, 6], "counts": "ü0"}, "run lengths in a text that is not COCO's, or is cut off"),
        ({"size": [4, 6], "counts": ""}, "run lengths in a text that is not COCO's, or is cut off"),
        ({"size": [4, 6], "counts": "o" * 1000 + "0"}, "run lengths that no image has"),
        ({"size": [4, 6], "counts": "T1N"}, "run lengths that are no list of integers from 0"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(segmentation: object, reason: str) -> None:
    with pytest.raises(BadMaskError) as caught:
        encode_segmentation(segmentation, 4, 6)
    assert str(caught.value) == reason


BOX = {"bbox": [5, 4, 20, 10]}
POLYGON = [[5, 4, 25, 4, 25, 14, 5, 14]]  # the pixels of the box


def test_coco_masks_stand_in_the_rows_of_their_boxes(make_coco: Make) -> None:
    crowd = [8 * HEIGHT, 3 * HEIGHT, (WIDTH - 11) * HEIGHT]
    root = make_coco(
        [
            {**BOX, "segmentation": POLYGON, "area": 200},
            {"bbox": [1, 1, 3, 3]},
            {"bbox": [8, 0, 3, HEIGHT], "segmentation": {"size": [HEIGHT, WIDTH], "counts": crowd}, "iscrowd": 1},
            {"bbox": [1, 1, 3, 3], "segmentation": [[1, 2]]},
            {**BOX, "segmentation": POLYGON},
            {"segmentation": [[1, 2], POLYGON[0], [3, 4, 5, 6, 7, float("nan")]], "id": 9},
        ]
    )
    dataset = open_detection(root, "train", masks=True)
    _, target = dataset[0]
    expected = torch.zeros(4, HEIGHT, WIDTH, dtype=torch.uint8)
    expected[[0, 2, 3], 4:14, 5:25] = 1
    expected[1, :, 8:11] = 1
    assert torch.equal(target["masks"], expected) and target["masks"].dtype == torch.uint8
    assert target["area"].tolist() == [200.0, 3 * HEIGHT, 200.0, 200.0] and target["iscrowd"].tolist() == [0, 1, 0, 0]
    assert target["boxes"].tolist()[3] == [5, 4, 25, 14]
    assert dataset.report.names(Problem.BOX_FROM_MASK) == ["1.jpg, annotation 9"]
    assert dataset.report.names(Problem.INVALID_PART) == ["1.jpg, annotation 9: a polygon of 2 numbers"]
    assert dataset.report.names(Problem.MISSING_MASK) == ["1.jpg, annotation 2"]
    assert dataset.report.names(Problem.INVALID_MASK) == ["1.jpg, annotation 4: a polygon of 2 numbers"]
    assert tuple(dataset[1][1]["masks"].shape) == (0, HEIGHT, WIDTH)
    assert "masks" not in open_detection(root, "train")[0][1]
    found = [pycocotools.decode(entry["segmentation"]) for entry in dataset.coco_ground_truth()["annotations"]]
    assert np.array_equal(np.stack(found), expected.numpy())


def test_data_without_masks_are_refused_where_masks_are_asked_for(make_coco: Make) -> None:
    with pytest.raises(PliantError, match="must have masks, polygons or run lengths in COCO json or VOC's"):
        open_detection(make_coco([BOX]), "train", masks=True)


def test_masks_that_would_fill_the_memory_are_left_out(make_coco: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pliant.data.detection.boxes._MAX_MASK_PIXELS", 2 * WIDTH * HEIGHT)
    many = {**BOX, "segmentation": POLYGON, "image_id": 20}
    alone = [{**BOX, "segmentation": POLYGON, "image_id": 10 * i} for i in (1, 1, 3, 4)]
    dataset = open_detection(make_coco([*alone, many, many, many]), "train", masks=True)
    assert len(dataset) == 3
    assert dataset.report.names(Problem.HUGE_MASKS) == [f"2.jpg: 3 masks of {WIDTH}x{HEIGHT}"]


def write_object_map(root: Path, stem: str, values: np.ndarray) -> None:
    folder = root / "SegmentationObject"
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(values, mode="P")
    image.putpalette([channel for value in range(256) for channel in (value, 255 - value, value // 2)])
    image.save(folder / f"{stem}.png")


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_voc_numbers_objects_in_the_order_of_the_xml(make_voc: Make) -> None:
    objects = voc_object("oak", 6, 5, 25, 14) + voc_object("ash", 31, 21, 40, 30) + voc_object("oak", 1, 1, 4, 4)
    root = make_voc({"a": voc_xml(objects), "b": voc_xml(voc_object("oak", 6, 5, 25, 14))})
    (root / "ImageSets" / "Segmentation").mkdir()
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[4:14, 5:25], values[20:30, 30:40], values[14, 5:25] = 1, 2, 255
    write_object_map(root, "a", values)
    dataset = open_detection(root, "train", masks=True)
    _, target = dataset[0]
    assert torch.equal(target["masks"], torch.from_numpy(np.stack([values == 1, values == 2])).to(torch.uint8))
    assert target["labels"].tolist() == [2, 1] and target["area"].tolist() == [200.0, 100.0]
    assert dataset.report.names(Problem.MISSING_MASK) == ["a.jpg, object 3"]
    assert dataset.report.names(Problem.MISSING_LABELS) == ["b.jpg"]


class TestTransforms:
    """Masks go where the pixels go."""

    @pytest.fixture
    def sample(self, make_coco: Make) -> tuple[torch.Tensor, dict[str, Any]]:
        corner = [[40.0, 30, 60, 30, 60, 40]]
        annotations = [
            {**BOX, "segmentation": POLYGON},
            {"bbox": [40, 30, 20, 10], "segmentation": corner},
            {**BOX, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}, "iscrowd": 1},
        ]
        return open_detection(make_coco(annotations), "train", masks=True)[0]

    def test_turn(self, sample: tuple[torch.Tensor, dict[str, Any]]) -> None:
        image, target = sample
        for turns in range(4):
            _, turned = rotate90(image, target, turns)
            assert torch.equal(turned["masks"], torch.rot90(target["masks"], turns, (1, 2)))
            assert type(turned["masks"]) is type(target["masks"])

    def test_crop_keeps_what_is_visible_of_box_and_mask(
        self, sample: tuple[torch.Tensor, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image, target = sample
        # A window from (36, 12): of the first box nothing, of the second 20 of 20 columns and 6 of 10 rows.
        places = iter([12, 36])
        monkeypatch.setattr("pliant.data.detection.transforms.randint", lambda stop: next(places))
        cropped, kept = RandomCrop(24)(image, target)
        assert torch.equal(cropped, image[:, 12:36, 36:60])
        assert torch.equal(kept["masks"], target["masks"][1:2, 12:36, 36:60])
        assert kept["boxes"].tolist() == [[4, 18, 24, 24]]
        assert kept["area"].tolist() == [float(kept["masks"].sum())] and 0 < kept["area"] < 120

    def test_training_flips_masks_with_the_image_and_drops_crowds(
        self, sample: tuple[torch.Tensor, dict[str, Any]]
    ) -> None:
        image, target = sample
        _, flipped = detection_transforms(flip=1.0, vertical_flip=1.0, photometric=True)(image, target)
        assert torch.equal(flipped["masks"], target["masks"][:2].flip(1, 2))
        assert flipped["labels"].tolist() == target["labels"][:2].tolist()

    def test_every_row_of_a_target_speaks_of_one_object(self, sample: tuple[torch.Tensor, dict[str, Any]]) -> None:
        """After any chain of transforms each mask is as large as the image and lies in its box."""
        transform = detection_transforms(crop=30, flip=0.5, vertical_flip=0.5, rotate90=True, min_visible=0.2)
        seen = 0
        for seed in range(40):
            torch.manual_seed(seed)
            image, target = transform(*sample)
            assert len({len(target[name]) for name in ("boxes", "labels", "area", "iscrowd", "masks")}) == 1
            for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].round().int().tolist(), strict=True):
                assert mask.shape == image.shape[1:]
                outside = mask.clone()
                outside[y1:y2, x1:x2] = 0
                assert mask.any() and not outside.any()
                seen += 1
        assert seen > 20

    def test_collate_keeps_them(self, sample: tuple[torch.Tensor, dict[str, Any]]) -> None:
        _, targets = collate([sample, sample])
        assert [tuple(t["masks"].shape) for t in targets] == [(3, HEIGHT, WIDTH)] * 2
