# SPDX-License-Identifier: Apache-2.0
"""Masks in results and in the metric: against pycocotools, and with files that lie."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pliant._check import PliantError
from pliant.data import Category
from pliant.evaluation import coco_results, evaluate_detections, evaluate_instances, load_results, save_results

# pycocotools, which only checks us here, is older than NumPy 2's rules of copying.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

HEIGHT, WIDTH = 150, 220
CATEGORIES = [{"id": 4, "name": "oak"}, {"id": 9, "name": "ash"}]


def ellipse(rng: np.random.Generator, box: list[float], turned: float) -> np.ndarray:
    """An ellipse in (x, y, width, height), with a bite taken out of it: a mask much smaller than its box."""
    x, y, width, height = box
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    u, v = (columns - x) / width * 2 - 1, (rows - y) / height * 2 - 1
    return ((u**2 + v**2 < 1) & (u > turned - 1)).astype(np.uint8)


def coded(pixels: np.ndarray) -> dict[str, Any]:
    runs = coder.encode(np.asfortranarray(pixels))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Six images of objects of 8 to 140 pixels, found a little beside their places; some crowds, some false alarms."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, 7):
        for _ in range(rng.integers(2, 7)):
            size = np.exp(rng.uniform(np.log(8), np.log(140), 2))
            box = [*(rng.uniform(0, [WIDTH, HEIGHT]) - size / 2), *size]
            pixels = ellipse(rng, box, 0.0)
            category = int(rng.choice([4, 9]))
            entry = {"image_id": image, "category_id": category, "bbox": [float(v) for v in box]}
            crowd = int(rng.random() < 0.15)
            annotations.append({"id": len(annotations) + 1, **entry, "segmentation": coded(pixels), "iscrowd": crowd,
                                "area": float(pixels.sum())})  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                moved = [b + s * d for b, s, d in zip(box, [*size, *size], rng.normal(0, 0.08, 4), strict=True)]
                guess = ellipse(rng, moved, rng.uniform(0, 0.6))
                results.append({**entry, "bbox": [float(v) for v in moved], "score": float(rng.random()),
                                "segmentation": coded(guess)})  # fmt: skip
    images = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, 7)]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, results


def official(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> list[float]:
    """The twelve numbers of pycocotools; results of masks come without boxes, as COCO's server wants them."""
    keys = {"bbox": "segmentation", "segm": "bbox"}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        found = coco.loadRes([{k: v for k, v in result.items() if k != keys[kind]} for result in results])
        evaluator = COCOeval(coco, found, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_both_tables_are_those_of_pycocotools(seed: int) -> None:
    truth, results = random_case(seed)
    metrics = evaluate_instances(truth, results)
    names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100", "ar_small"]
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        ours = [metrics.as_dict()[prefix + name] for name in names]
        assert ours == pytest.approx(official(truth, results, kind)[:10], abs=1e-9)
    assert metrics.mask.ap != metrics.box.ap and 0.05 < metrics.mask.ap < 0.95
    assert metrics.as_dict()["mask_per_category"].keys() == {"oak", "ash"}
    assert metrics.table().startswith("boxes\n Average Precision") and "\n\nmasks\n Average" in metrics.table()


def test_masks_of_a_detector_become_run_lengths_that_a_file_keeps(tmp_path: Any) -> None:
    """Above a half is inside, a half is not."""
    masks = torch.zeros(2, 1, 5, 7)
    masks[0, 0, 1:3, 2:6], masks[0, 0, 4, 0], masks[1, 0, 0, 6] = 0.9, 0.5, 0.50001
    output = {
        "boxes": torch.tensor([[2.0, 1, 6, 3], [6, 0, 7, 1]]),
        "scores": torch.tensor([0.9, 0.4]),
        "labels": torch.tensor([2, 1]),
        "masks": masks,
    }
    results = coco_results([(3, output)], [Category(4, "oak"), Category(9, "ash")])
    save_results(results, tmp_path / "r.json")
    loaded = load_results(tmp_path / "r.json")
    assert loaded == results
    decoded = [coder.decode(result["segmentation"]) for result in loaded]
    assert np.array_equal(np.stack(decoded), (masks[:, 0] > 0.5).numpy())
    none = {name: tensor[:0] for name, tensor in output.items()}
    assert coco_results([(3, none)], [Category(4, "oak")]) == []


@pytest.mark.parametrize(
    ("segmentation", "got"),
    [
        (None, "neither polygons nor run lengths"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, f"run lengths of a mask of another size than {HEIGHT}x{WIDTH}"),
        ({"size": [HEIGHT, WIDTH], "counts": "`" * 500}, "run lengths in a text that is not COCO's, or is cut off"),
    ],
)
def test_results_that_lie_about_their_masks_are_named(segmentation: object, got: str) -> None:
    truth, results = random_case(1)
    results[2] = {**results[2], "segmentation": segmentation}
    with pytest.raises(PliantError) as caught:
        evaluate_detections(truth, results, iou_type="segm")
    expected = f"results[2]: must have a mask of {HEIGHT}x{WIDTH} pixels; got {got}; write it in COCO's form"
    assert str(caught.value) == expected
    evaluate_detections(truth, results)  # boxes are measured without a look at them
