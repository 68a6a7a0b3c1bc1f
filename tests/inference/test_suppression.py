# SPDX-License-Identifier: Apache-2.0
"""Suppression and averaging of boxes against loops over single boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pliant.inference import average_boxes, suppress


def _boxes(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in a small field, so that many overlap; no two scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([30.0, 20.0])
    boxes = torch.cat([corner, corner + 3 + torch.rand(count, 2, generator=generator) * 15], dim=1)
    scores = (torch.randperm(count, generator=generator) + 1) / (count + 1)
    return boxes, scores, torch.randint(1, classes + 1, (count,), generator=generator)


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def _soft_nms(
    boxes: list[list[float]], scores: list[float], labels: list[int], method: str, limit: int
) -> list[tuple[int, float]]:
    """Fig. 2 of the paper, box by box, with N_t = 0.3, sigma = 0.4 and 0.05 as the least score."""
    left = dict(enumerate(scores))
    done = []
    while left:
        best = max(left, key=lambda k: left[k])
        score = left.pop(best)
        if score >= 0.05:
            done.append((best, score))
        for k in left:
            if labels[k] == labels[best]:
                overlap = _iou(boxes[best], boxes[k])
                if method == "linear" and overlap > 0.3:
                    left[k] *= 1 - overlap
                if method == "gaussian":
                    left[k] *= math.exp(-(overlap**2) / 0.4)
    return sorted(done, key=lambda pair: -pair[1])[:limit]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize(("count", "classes", "limit"), [(40, 1, 100), (60, 3, 100), (60, 3, 7), (1, 1, 3)])
def test_soft_suppression_is_the_loop_of_its_paper(method: str, count: int, classes: int, limit: int) -> None:
    boxes, scores, labels = _boxes(count, classes, seed=count + limit)
    kept, lowered = suppress(
        boxes, scores, labels, method=method, iou_threshold=0.3, sigma=0.4, min_score=0.05, max_detections=limit
    )
    expected = _soft_nms(boxes.tolist(), scores.tolist(), labels.tolist(), method, limit)
    assert kept.tolist() == [k for k, _ in expected]
    assert lowered.tolist() == pytest.approx([s for _, s in expected], rel=1e-4)
    if count > 1 and limit > 7:
        assert (lowered < scores[kept]).any(), "some score must have sunk"


def test_hard_suppression_drops_what_overlaps_and_keeps_scores() -> None:
    boxes, scores, labels = _boxes(50, 2, seed=4)
    kept, same = suppress(boxes, scores, labels, iou_threshold=0.3, max_detections=9)
    assert torch.equal(same, scores[kept])
    assert len(kept) == 9
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    pairs = [(i, j) for i in kept.tolist() for j in kept.tolist() if i < j and labels[i] == labels[j]]
    assert pairs
    assert all(_iou(boxes[i].tolist(), boxes[j].tolist()) <= 0.3 for i, j in pairs)


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_nothing_is_kept_of_nothing(method: str) -> None:
    kept, scores = suppress(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), method=method)
    assert kept.tolist() == []
    assert scores.tolist() == []


def test_refusals() -> None:
    boxes, scores, labels = _boxes(3, 1, seed=0)
    with pytest.raises(ValueError, match="method: must be one of hard, linear, gaussian; got 'soft'"):
        suppress(boxes, scores, labels, method="soft")
    with pytest.raises(ValueError, match=r"sigma and min_score: must be positive; got \(0, 0.001\)"):
        suppress(boxes, scores, labels, method="gaussian", sigma=0)


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_averages_are_sums_over_neighbours_of_the_same_class(rounds: int) -> None:
    boxes, scores, labels = _boxes(30, 2, seed=8)
    kept = suppress(boxes, scores, labels, iou_threshold=0.5)[0]
    found = average_boxes(boxes[kept], labels[kept], boxes, scores, labels, iou_threshold=0.4, rounds=rounds)
    moved = 0
    for row, k in enumerate(kept.tolist()):
        box = boxes[k].tolist()
        for _ in range(rounds):
            near = [j for j in range(30) if labels[j] == labels[k] and _iou(box, boxes[j].tolist()) >= 0.4]
            total = sum(scores[j].item() for j in near)
            box = [sum(scores[j].item() * boxes[j][side].item() for j in near) / total for side in range(4)]
        assert found[row].tolist() == pytest.approx(box, rel=1e-4)
        moved += box != boxes[k].tolist()
    assert (moved > 0) == (rounds > 0)


def test_a_box_without_neighbours_stays() -> None:
    lonely = torch.tensor([[50.0, 60.0, 70.0, 90.0]])
    label = torch.tensor([1])
    assert torch.equal(average_boxes(lonely, label, *_boxes(5, 1, seed=1)), lonely)
