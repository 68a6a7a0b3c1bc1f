# SPDX-License-Identifier: Apache-2.0
"""Mean intersection over union and accuracy, against numbers worked out by hand and against sets of pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pliant.evaluation import classification_metrics, confusion, rank_of_truth, segmentation_metrics

NAMES = ["ground", "tree", "house", "cloud"]

# Counted: 10 of 12 pixels. Truth: ground 5, tree 3, house 2. Found right: ground 3, tree 2, house 1.
TRUTH = torch.tensor([[0, 0, 0, 255], [0, 0, 1, 1], [1, 2, 2, 255]])
PREDICTED = torch.tensor([[0, 1, 0, 1], [2, 0, 1, 1], [2, 2, 0, 2]])


def test_the_confusion_matrix_counts_pairs_and_leaves_out_what_is_ignored() -> None:
    assert confusion(TRUTH, PREDICTED, 4).tolist() == [[3, 1, 1, 0], [0, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_metrics_by_hand() -> None:
    metrics = segmentation_metrics(confusion(TRUTH, PREDICTED, 4), NAMES)
    # Unions: ground 5 + 4 - 3 = 6, tree 3 + 3 - 2 = 4, house 2 + 3 - 1 = 4; no cloud anywhere.
    assert metrics.per_category == {"ground": 3 / 6, "tree": 2 / 4, "house": 1 / 4, "cloud": -1.0}
    assert metrics.miou == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert metrics.pixel_accuracy == 6 / 10
    assert metrics.mean_accuracy == pytest.approx((3 / 5 + 2 / 3 + 1 / 2) / 3)
    assert metrics.pixels == 10
    assert metrics.as_dict()["per_category"]["cloud"] == -1.0
    lines = [" ".join(line.split()) for line in metrics.table().splitlines()]
    assert {"cloud n/a", "tree 0.500", "mIoU 0.417", "pixel accuracy 0.600", "over 10 pixels"} <= set(lines)


def test_a_class_that_is_only_predicted_counts_as_missed() -> None:
    metrics = segmentation_metrics(confusion(torch.tensor([0, 0]), torch.tensor([0, 3]), 4), NAMES)
    assert metrics.per_category == {"ground": 0.5, "tree": -1.0, "house": -1.0, "cloud": 0.0}
    assert (metrics.miou, metrics.mean_accuracy) == (0.25, 0.5)


def test_one_class_alone_is_no_perfect_score() -> None:
    metrics = segmentation_metrics(confusion(torch.tensor([0, 0, 255]), torch.tensor([0, 0, 3]), 4), NAMES)
    assert (metrics.miou, metrics.mean_accuracy, metrics.per_category["ground"]) == (-1.0, -1.0, 1.0)


def test_nothing_but_ignored_pixels_leaves_every_number_undefined() -> None:
    metrics = segmentation_metrics(confusion(torch.tensor([255]), torch.tensor([1]), 4), NAMES)
    assert (metrics.miou, metrics.pixel_accuracy, metrics.mean_accuracy, metrics.pixels) == (-1.0, -1.0, -1.0, 0)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 255]), st.integers(0, 3)), min_size=1, max_size=40))
def test_each_iou_is_that_of_the_sets_of_pixels(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = (torch.tensor(column, dtype=torch.uint8) for column in zip(*pairs, strict=True))
    metrics = segmentation_metrics(confusion(truth, predicted, 4), NAMES)
    counted = [(k, t, p) for k, (t, p) in enumerate(pairs) if t != 255]
    for label, name in enumerate(NAMES):
        true = {k for k, t, _ in counted if t == label}
        found = {k for k, _, p in counted if p == label}
        expected = len(true & found) / len(true | found) if true | found else -1.0
        assert metrics.per_category[name] == pytest.approx(expected)


def test_matrices_of_parts_add_up() -> None:
    whole = confusion(TRUTH, PREDICTED, 4)
    assert torch.equal(confusion(TRUTH[:1], PREDICTED[:1], 4) + confusion(TRUTH[1:], PREDICTED[1:], 4), whole)


def test_wrong_shapes_and_labels_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"predicted: must have the shape of the truth; got shape \(2,\) for shape \(3,\)"
    ):
        confusion(torch.zeros(3), torch.zeros(2), 4)
    with pytest.raises(ValueError, match="truth: must be labels from 0 to 1; got 0 to 2"):
        confusion(TRUTH, PREDICTED.clamp(max=1), 2)
    with pytest.raises(ValueError, match="predicted: must be labels from 0 to 3; got 0 to 255"):
        confusion(torch.tensor([0, 1]), torch.tensor([0, 255]), 4)
    with pytest.raises(ValueError, match="matrix: must be 4 x 4"):
        segmentation_metrics(torch.zeros(3, 3), NAMES)


def test_top1_and_top5_by_hand() -> None:
    names = [*"abcdefg"]
    predictions = [[0, 1, 2, 3, 4], [3, 4, 2, 1, 0], [6, 5, 4, 3, 2], [2, 1, 0, 3, 4]]
    truths = [0, 0, 0, 2]
    ranks = [rank_of_truth(t, torch.tensor(p)) for t, p in zip(truths, predictions, strict=True)]
    assert ranks == [0, 4, -1, 0]
    metrics = classification_metrics(truths, ranks, names)
    assert (metrics.top1, metrics.top5, metrics.images) == (2 / 4, 3 / 4, 4)
    assert metrics.per_category["a"] == pytest.approx(1 / 3)
    assert (metrics.per_category["c"], metrics.per_category["b"]) == (1.0, -1.0)
    assert [line.split() for line in metrics.table().splitlines()[:2]] == [["top-1", "0.500"], ["top-5", "0.750"]]
    # Of five classes or fewer the best five are all of them, which says nothing.
    assert classification_metrics([0], [0], names[:5]).top5 == -1.0


def test_ranks_and_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="ranks: must be one for each label; got 1 for 2"):
        classification_metrics([0, 1], [0], NAMES)
    with pytest.raises(ValueError, match="truths: must be labels from 0 to 3; got 4"):
        classification_metrics([4], [0], NAMES)
