# SPDX-License-Identifier: Apache-2.0
"""Intervals of AP over the images of a test set: images are drawn again with replacement, and AP is computed anew."""

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


def intervals(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    draws: int,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return the 2.5 % and 97.5 % quantiles of COCO's numbers in `names` over `draws` resampled test sets.

    Args:
        ground_truth: a COCO dictionary.
        results: COCO results of one detector.
        names: fields of `pliant.evaluation.CocoMetrics`.
        draws: how many test sets are drawn.
        seed: of the drawing; the same seed draws the same images for every detector.
    """
    rng = np.random.default_rng(seed)
    count = len(ground_truth["images"])
    values = []
    for _ in range(draws):
        metrics = evaluate_detections(*resampled(ground_truth, results, rng.integers(count, size=count).tolist()))
        values.append([getattr(metrics, name) for name in names])
    low, high = np.quantile(np.array(values), (0.025, 0.975), axis=0)
    return {name: (round(float(a), 4), round(float(b), 4)) for name, a, b in zip(names, low, high, strict=True)}
