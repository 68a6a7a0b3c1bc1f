# SPDX-License-Identifier: Apache-2.0
"""The study of detection: test sets drawn again by hand, and arms that differ in what their names say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import detection  # noqa: E402
from benchmarks.accuracy.bootstrap import draws, interval, resampled  # noqa: E402

BOX = [5, 5, 20, 10]


def _truth() -> dict[str, Any]:
    """Three images with one object each, two with one category and one with another."""
    entry = {"bbox": BOX, "area": 200, "iscrowd": 0}
    return {
        "images": [{"id": i, "width": 50, "height": 40} for i in (4, 7, 9)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {**entry, "id": k, "image_id": i, "category_id": c} for k, i, c in ((1, 4, 1), (2, 7, 2), (3, 9, 1))
        ],
    }


def _found(image: int, category: int, score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": BOX, "score": score}


def test_images_drawn_twice_are_two_images() -> None:
    truth, results = resampled(_truth(), [_found(7, 2, 0.9), _found(9, 1, 0.8)], [1, 1, 0])
    assert [image["id"] for image in truth["images"]] == [1, 2, 3]
    assert [(e["id"], e["image_id"], e["category_id"]) for e in truth["annotations"]] == [
        (1, 1, 2),
        (2, 2, 2),
        (3, 3, 1),
    ]
    assert [(r["image_id"], r["score"]) for r in results] == [(1, 0.9), (2, 0.9)]


def test_draws_by_hand() -> None:
    # Category 1 is found in one of its two images: AP50 is 0 or 1 where all drawn images are of one kind, else a half.
    results = [_found(4, 1, 0.9)]
    truth = _truth()
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["category_id"] == 1]
    truth["categories"] = truth["categories"][:1]
    truth["images"] = [image for image in truth["images"] if image["id"] != 7]
    drawn = draws(truth, results, ["ap50"], count=40)["ap50"]
    assert set(drawn) == {0.0, 0.505, 1.0}, "51 of the 101 recall points are reached by finding one of two"
    assert drawn == draws(truth, results, ["ap50"], count=40)["ap50"]
    both = [*results, _found(9, 1, 0.7)]
    assert draws(truth, both, ["ap", "ap50"], count=5) == {"ap": [1.0] * 5, "ap50": [1.0] * 5}


def test_an_interval_by_hand() -> None:
    # Between 41 values there are 40 steps: the quantiles are the second lowest and the second highest.
    assert interval([*range(41)]) == (1.0, 39.0)


def test_arms_differ_from_plain_in_what_they_name_alone() -> None:
    def settings(arm: str) -> dict[str, Any]:
        key = {"dataset": "neu", "arm": arm, "steps": 1800, "seed": 2}
        return detection.config_of(key, Path("data"), None).as_dict()

    plain = settings("plain")
    assert (plain["deform"], plain["roi_pool"], plain["mimic"]) == (None, "align", False)
    for arm, given in detection.ARMS.items():
        ours = settings(arm)
        assert {name: value for name, value in ours.items() if value != plain[name]} == {
            name: value for name, value in given.items() if value != plain[name]
        }
        assert ("mdpool" in arm) == (ours["roi_pool"] == "modulated")
        assert ("mimic" in arm) == ours["mimic"]


def test_the_plan_has_every_arm_with_every_seed_once() -> None:
    plan = detection.plan()
    assert len(plan) == len({str(key) for key in plan}) == 3 * 2 * 3 * len(detection.ARMS)
    assert [key["arm"] for key in plan[: len(detection.ARMS)]] == list(detection.ARMS)
