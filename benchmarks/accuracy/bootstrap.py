# SPDX-License-Identifier: Apache-2.0
"""AP on test sets drawn again: images with replacement, from the images of the test set, and AP computed anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pliant.evaluation import evaluate_detections


def resampled(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], chosen: Sequence[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and results in which image i is the one at the place `chosen[i]`; images may come twice."""
    truths, found = defaultdict(list), defaultdict(list)
    for entry in ground_truth["annotations"]:
        truths[entry["image_id"]].append(entry)
    for result in results:
        found[result["image_id"]].append(result)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    for new, place in enumerate(chosen, 1):
        image = ground_truth["images"][place]
        images.append({**image, "id": new})
        for entry in truths[image["id"]]:
            annotations.append({**entry, "id": len(annotations) + 1, "image_id": new})
        drawn += [{**result, "image_id": new} for result in found[image["id"]]]
    return {**ground_truth, "images": images, "annotations": annotations}, drawn


def draws(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    count: int,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return COCO's numbers in `names` on each of `count` resampled test sets.

    Args:
        ground_truth: a COCO dictionary.
        results: COCO results of one detector.
        names: fields of `pliant.evaluation.CocoMetrics`.
        count: how many test sets are drawn.
        seed: of the drawing; the same seed draws the same images for every detector, so that two detectors' numbers
            can be compared draw by draw.
    """
    rng = np.random.default_rng(seed)
    images = len(ground_truth["images"])
    values: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(count):
        metrics = evaluate_detections(*resampled(ground_truth, results, rng.integers(images, size=images).tolist()))
        for name in names:
            values[name].append(round(getattr(metrics, name), 4))
    return values


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5 % and the 97.5 % quantile, by linear interpolation between the values."""
    low, high = np.quantile(np.array(values), (0.025, 0.975))
    return float(low), float(high)
