# SPDX-License-Identifier: Apache-2.0
"""Detector outputs as COCO results, and the file of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pliant._check import PliantError
from pliant.data import Category
from pliant.evaluation import coco_results, load_results, save_results

CATEGORIES = [Category(3, "oak"), Category(8, "ash")]


def output(*rows: tuple[list[float], float, int]) -> dict[str, Tensor]:
    """Return what a torchvision detector returns: rows of corners, score, label."""
    return {
        "boxes": torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([row[1] for row in rows]),
        "labels": torch.tensor([row[2] for row in rows], dtype=torch.int64),
    }


def test_corners_become_sizes_and_labels_become_ids() -> None:
    outputs = [(70, output(([1, 2, 4.12345, 8], 0.1234567, 2), ([0, 0, 5, 6], 1.0, 1))), (50, output())]
    assert coco_results(outputs, CATEGORIES) == [
        {"image_id": 70, "category_id": 8, "bbox": [1, 2, 3.123, 6], "score": 0.1234567},
        {"image_id": 70, "category_id": 3, "bbox": [0, 0, 5, 6], "score": 1},
    ]


@pytest.mark.parametrize("label", [0, 3, -1])
def test_labels_outside_the_categories_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"labels: must be from 1 to 2; got {label}; give the categories"):
        coco_results([(1, output(([0, 0, 5, 6], 0.5, label)))], CATEGORIES)


def test_an_image_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got image 7 a second time; open the data with verify='pixels'"):
        coco_results([(7, output()), (7, output())], CATEGORIES)


def test_a_file_of_results_comes_back_as_it_was(tmp_path: Path) -> None:
    results = coco_results([(7, output(([0.1, 0.2, 5, 6], 0.3, 1), ([1, 2, 3, 4], 0.2, 2)))], CATEGORIES)
    for some in (results, []):
        save_results(some, tmp_path / "results.json")
        assert load_results(tmp_path / "results.json") == some
        assert json.loads((tmp_path / "results.json").read_text()) == some


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", r"results\.json: must be a json file; Expecting"),
        ('{"image_id": 1}', r"results\.json: must be an array of detections; got dict"),
        ("[3]", r"results\.json\[0\]: must be a detection; got 3"),
        ('[{"image_id": 1, "category_id": "a"}]', r"results\.json\[0\]: must have an integer image_id"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]', "must have a bbox of four finite"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]', "a finite score; got .* and None"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(PliantError, match=message) as raised:
        load_results(tmp_path / "results.json")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match="results: must be a file of COCO results, .*none.json; no such file"):
        load_results(tmp_path / "none.json")


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_results([{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": float("nan")}], tmp_path / "a")
