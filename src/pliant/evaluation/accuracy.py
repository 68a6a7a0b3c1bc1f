# SPDX-License-Identifier: Apache-2.0
"""The metric of classification: top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pliant._check import counted, fail
from pliant.evaluation.ratios import UNDEFINED, Numbers, ratio, shown, table_rows

TOP = 5


@dataclass(frozen=True)
class ClassificationMetrics(Numbers):
    """Numbers of classification, in [0, 1]; -1 where a number is undefined.

    Attributes:
        top1: share of the images whose best label is the true one.
        top5: share of the images whose true label is among the best five; undefined below six classes, where it would
            be 1 for any model.
        per_category: top-1 of the images of each class.
        images: how many there were.
    """

    top1: float
    top5: float
    per_category: dict[str, float] = field(default_factory=dict)
    images: int = 0

    def table(self) -> str:
        """Return the two accuracies, and those of the ten classes that are found worst."""
        lines = [f" top-1  {shown(self.top1)}", f" top-5  {shown(self.top5)}", f" over {counted(self.images, 'image')}"]
        worst = sorted((value, name) for name, value in self.per_category.items() if value >= 0)[:10]
        if worst:
            rows = table_rows({name: value for value, name in worst})
            lines += ["", " top-1 by category, the lowest first", *rows]
        return "\n".join(lines)


def rank_of_truth(truth: int, labels: Tensor) -> int:
    """Return the place of the label `truth` among `labels` (k,), best first: 0 for the best, -1 if it is not there.

    Example:
        >>> import torch
        >>> rank_of_truth(7, torch.tensor([3, 7, 1])), rank_of_truth(2, torch.tensor([3, 7, 1]))
        (1, -1)
    """
    return labels.tolist().index(truth) if truth in labels.tolist() else -1


def classification_metrics(truths: Sequence[int], ranks: Sequence[int], names: Sequence[str]) -> ClassificationMetrics:
    """Return top-1 and top-5 accuracy.

    Args:
        truths: the label of each image, 0..C-1.
        ranks: the place of that label in the image's prediction, by `rank_of_truth`.
        names: those of the C classes.

    Raises:
        PliantError: not one rank for each label, or a label out of range.

    Example:
        >>> metrics = classification_metrics([0, 0, 1, 2], [0, 3, -1, 0], list("abcdef"))
        >>> metrics.top1, metrics.top5, metrics.per_category["a"], metrics.per_category["f"]
        (0.5, 0.75, 0.5, -1.0)
    """
    if len(truths) != len(ranks):
        fail("ranks", "must be one for each label", f"{len(ranks)} for {len(truths)}", "rank every prediction")
    wrong = [label for label in truths if not 0 <= label < len(names)]
    if wrong:
        fail("truths", f"must be labels from 0 to {len(names) - 1}", wrong[0], "give the classes of the model")
    right = [0] * len(names)
    seen = [0] * len(names)
    for label, rank in zip(truths, ranks, strict=True):
        seen[label] += 1
        right[label] += rank == 0
    top5 = sum(0 <= rank < TOP for rank in ranks)
    return ClassificationMetrics(
        top1=ratio(sum(right), len(truths)),
        top5=ratio(top5, len(truths)) if len(names) > TOP else UNDEFINED,
        per_category={name: ratio(r, s) for name, r, s in zip(names, right, seen, strict=True)},
        images=len(truths),
    )
