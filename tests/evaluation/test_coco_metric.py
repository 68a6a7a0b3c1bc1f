# SPDX-License-Identifier: Apache-2.0
"""The COCO metric: cases worked by hand, and pycocotools as an independent oracle."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pliant._check import PliantError
from pliant.evaluation import CocoMetrics, evaluate_detections

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
         "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")  # fmt: skip


def truth_of(*boxes: tuple[list[float], int], images: int = 1) -> dict[str, Any]:
    """Return a ground truth with boxes (x, y, w, h) of categories 3 and 8 in image 1."""
    return {
        "images": [{"id": i, "width": 400, "height": 300} for i in range(1, images + 1)],
        "categories": [{"id": 3, "name": "oak"}, {"id": 8, "name": "ash"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, (b, c) in enumerate(boxes)
        ],
    }


def found(bbox: list[float], score: float, category: int = 3, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


def test_perfect_detections() -> None:
    truth = truth_of(([10, 20, 20, 30], 3), ([100, 50, 90, 40], 3))
    metrics = evaluate_detections(truth, [found([10, 20, 20, 30], 0.9), found([100, 50, 90, 40], 0.2)])
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.ar_100) == pytest.approx((1, 1, 1, 1))
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == pytest.approx((1, 1, -1))
    assert metrics.ar_1 == pytest.approx(0.5)
    assert metrics.per_category == {"oak": pytest.approx(1.0), "ash": -1.0}


def test_ap_worked_by_hand() -> None:
    """Two objects; ranked: a hit with IoU 0.8, a miss, a hit with IoU 0.6.

    At IoU 0.5, 0.55 and 0.6 precision is 1 up to recall 1/2 (51 of the 101 recall points) and 2/3 above (50);
    at 0.65 to 0.8 (four thresholds) only the first is a hit: 1 at 51 points and 0 at 50; above 0.8 nothing is.
    """
    truth = truth_of(([0, 0, 100, 10], 3), ([200, 100, 100, 10], 3))
    results = [found([200, 100, 60, 10], 0.1), found([0, 200, 50, 50], 0.5), found([0, 0, 80, 10], 0.9)]
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    metrics = evaluate_detections(truth, results)
    assert metrics.ap50 == pytest.approx(both)
    assert metrics.ap75 == pytest.approx(one)
    assert metrics.ap == pytest.approx((3 * both + 4 * one) / 10)
    assert metrics.ar_100 == pytest.approx((3 * 1 + 4 * 0.5) / 10)


def test_a_box_of_another_class_or_image_is_no_hit() -> None:
    truth = truth_of(([10, 20, 20, 30], 3), ([60, 20, 20, 30], 8), images=2)
    metrics = evaluate_detections(truth, [found([10, 20, 20, 30], 0.9, 8), found([10, 20, 20, 30], 0.9, image=2)])
    assert (metrics.ap, metrics.per_category) == (0, {"oak": 0, "ash": 0})


def test_detections_in_a_crowd_are_neither_rewarded_nor_punished() -> None:
    truth = truth_of(([10, 20, 20, 30], 3), ([100, 100, 200, 150], 3))
    truth["annotations"][1]["iscrowd"] = 1
    inside = [found([110 + 20 * i, 120, 15, 15], 0.95) for i in range(3)]
    hit = found([10, 20, 20, 30], 0.5)
    assert evaluate_detections(truth, [*inside, hit]).ap == pytest.approx(1)
    truth["annotations"].pop()
    assert evaluate_detections(truth, [*inside, hit]).ap == pytest.approx(0.25)


def test_annotation_ids_from_zero_are_no_trap() -> None:
    truth = truth_of(([10, 20, 20, 30], 3))
    assert truth["annotations"][0]["id"] == 0
    assert evaluate_detections(truth, [found([10, 20, 20, 30], 0.5)]).ap == pytest.approx(1)


def test_areas_and_crowds_that_a_file_leaves_out() -> None:
    truth = truth_of(([10, 20, 20, 30], 3), ([100, 50, 90, 40], 3))
    for annotation in truth["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    metrics = evaluate_detections(truth, [found([10, 20, 20, 30], 0.5)])
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == pytest.approx((1, 0, -1))


def test_no_results_and_no_annotations() -> None:
    metrics = evaluate_detections(truth_of(([10, 20, 20, 30], 3)), [])
    assert (metrics.ap, metrics.ap_small, metrics.ap_large, metrics.ar_100) == (0, 0, -1, 0)
    undefined = evaluate_detections(truth_of(), [found([10, 20, 20, 30], 0.5)])
    assert {getattr(undefined, name) for name in NAMES} == {-1.0}


def test_more_than_a_hundred_objects_need_more_detections() -> None:
    boxes = [[20.0 * (i % 20), 30.0 * (i // 20), 12.0, 9.0] for i in range(150)]
    results = [found(box, 1 - i / 1000) for i, box in enumerate(boxes)]
    truth = truth_of(*((box, 3) for box in boxes))
    assert evaluate_detections(truth, results).ar_100 == pytest.approx(2 / 3)
    more = evaluate_detections(truth, results, max_detections=200)
    assert (more.ap, more.ar_100, more.ar_10, more.max_detections) == pytest.approx((1, 1, 10 / 150, 200))
    assert "area=   all | maxDets=200 ] = 1.000" in more.table()


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a ground truth with crowds and small to large boxes, and results near it with many equal scores."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, 13):
        for _ in range(int(rng.integers(0, 9))):
            side = rng.choice([14, 50, 150], p=[0.4, 0.4, 0.2]) * rng.uniform(0.6, 1.5, 2)
            box = [*rng.uniform(0, 250, 2).tolist(), *side.tolist()]
            category, crowd = int(rng.choice([2, 5, 11])), int(rng.random() < 0.15)
            area = box[2] * box[3] * rng.uniform(0.5, 1)
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box,
                                "area": area, "iscrowd": crowd})  # fmt: skip
            for _ in range(int(rng.integers(0, 4))):
                near = [box[0] + rng.normal(0, side[0] / 9), box[1] + rng.normal(0, side[1] / 9),
                        box[2] * rng.uniform(0.8, 1.2), box[3] * rng.uniform(0.8, 1.2)]  # fmt: skip
                other = category if rng.random() < 0.85 else int(rng.choice([2, 5, 11]))
                results.append(found([float(v) for v in near], round(float(rng.random()), 1), other, image))
    rng.shuffle(results)
    images = [{"id": i, "width": 450, "height": 400} for i in range(1, 13)]
    categories = [{"id": i, "name": f"c{i}"} for i in (11, 2, 5, 7)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[list[float], dict[str, float]]:
    """Return the twelve numbers, and the AP of each category, as pycocotools computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = json.loads(json.dumps(truth))
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    values = {}
    for k, category in enumerate(sorted(truth["categories"], key=lambda c: int(c["id"]))):
        defined = precision[:, :, k][precision[:, :, k] > -1]
        values[category["name"]] = float(defined.mean()) if defined.size else -1.0
    return evaluation.stats.tolist(), values


@pytest.mark.parametrize("seed", range(8))
def test_every_number_is_that_of_pycocotools(seed: int) -> None:
    truth, results = random_case(seed)
    numbers, per_category = by_pycocotools(truth, results)
    metrics = evaluate_detections(truth, results)
    assert [getattr(metrics, name) for name in NAMES] == pytest.approx(numbers, abs=1e-12)
    assert metrics.per_category == pytest.approx(per_category, abs=1e-12)
    assert list(metrics.per_category) == ["c2", "c5", "c7", "c11"]
    assert 0.05 < metrics.ap < 0.9  # neither all nothing nor all hits


def test_inputs_stay_as_they_are_and_the_terminal_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    truth, results = random_case(3)
    before = json.dumps([truth, results])
    evaluate_detections(truth, results)
    assert json.dumps([truth, results]) == before
    assert capfd.readouterr() == ("", "")


def test_masks_are_compared_where_asked() -> None:
    truth = truth_of(([10, 20, 20, 30], 3))
    truth["annotations"][0]["segmentation"] = [[10, 20, 30, 20, 30, 50, 10, 50]]
    rle = {"size": [300, 400], "counts": part_mask()}
    metrics = evaluate_detections(truth, [{**found([10, 20, 20, 30], 0.5), "segmentation": rle}], iou_type="segm")
    assert metrics.iou_type == "segm"
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.ap75 == pytest.approx(0)


def part_mask() -> str:
    """Return the run lengths of the left three fifths of the box (10, 20, 20, 30) in a 400 x 300 image."""
    pixels = np.zeros((300, 400), np.uint8, order="F")
    pixels[20:50, 10:22] = 1
    counts: bytes = mask.encode(pixels)["counts"]
    return counts.decode()


METRICS = CocoMetrics(
    0.1234, 0.5, -1, 0, 1, -1, 0.2, 0.3, 0.4, 0.5, 0.6, -1, per_category={"red blood cell": 0.25, "wbc": -1}
)


def test_the_table_is_that_of_coco() -> None:
    lines = METRICS.table().splitlines()
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 0.123"
    assert lines[2] == " Average Precision  (AP) @[ IoU=0.75      | area=   all | maxDets=100 ] = n/a"
    assert lines[6] == " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.200"
    assert lines[11] == " Average Recall     (AR) @[ IoU=0.50:0.95 | area= large | maxDets=100 ] = n/a"
    assert lines[13:] == [" AP by category (bbox)", "   red blood cell  0.250", "   wbc             n/a"]


def test_the_numbers_go_into_json() -> None:
    values = json.loads(json.dumps(METRICS.as_dict()))
    assert (values["ap75"], values["per_category"]["red blood cell"], values["max_detections"]) == (-1, 0.25, 100)


def test_categories_of_one_name_are_told_apart() -> None:
    truth = truth_of(([10, 20, 20, 30], 8))
    truth["categories"][1]["name"] = "oak"
    assert list(evaluate_detections(truth, []).per_category) == ["oak (3)", "oak (8)"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            found([1, 2, 3, 4], 0.5, image=9),
            r"results\[0\]: must have the image_id of an entry in the ground truth's images; got 9",
        ),
        (
            found([1, 2, 3, 4], 0.5, category=4),
            r"results\[0\]: must have the category_id of an entry in the ground truth's categories; got 4",
        ),
        (found([1, 2, 3, float("nan")], 0.5), r"results\[0\]: must have a bbox of four finite numbers"),
        (found([1, 2, 3], 0.5), r"results\[0\]: must have a bbox of four finite numbers"),
        (found([1, 2, 3, 4], float("nan")), "and a finite score; got .* and nan; leave it out"),
        (
            {"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1},
            r"results\[0\]: must have an integer image_id and category_id",
        ),
    ],
)
def test_results_of_other_data_are_refused(result: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError, match=message):
        evaluate_detections(truth_of(([10, 20, 20, 30], 3)), [result])


def test_options_outside_their_range_are_refused() -> None:
    with pytest.raises(
        ValueError, match="max_detections: must be at least 10, since AR of 10 is reported; got 5; use 100"
    ):
        evaluate_detections(truth_of(), [], max_detections=5)
    with pytest.raises(ValueError, match="iou_type: must be 'bbox' or 'segm'; got 'box'"):
        evaluate_detections(truth_of(), [], iou_type="box")  # type: ignore[arg-type]
    with pytest.raises(PliantError, match="ground_truth: must have images; got none"):
        evaluate_detections({**truth_of(), "images": []}, [])
