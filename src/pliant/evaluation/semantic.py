# SPDX-License-Identifier: Apache-2.0
"""The metric of semantic segmentation: a confusion matrix of pixels, and the mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pliant._check import fail
from pliant.data import IGNORE
from pliant.evaluation.ratios import UNDEFINED, Numbers, ratio, table_rows


@dataclass(frozen=True)
class SegmentationMetrics(Numbers):
    """Numbers of semantic segmentation, in [0, 1]; -1 where a number is undefined.

    Attributes:
        miou: mean of `per_category` over the classes that are in the truth or in the predictions.
        pixel_accuracy: share of the counted pixels with the right label.
        mean_accuracy: mean over the classes of the truth of the share of their pixels that are found.
        per_category: intersection over union of each class: pixels of both over pixels of either.
        pixels: how many pixels were counted; those with the label 255 are not.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    per_category: dict[str, float] = field(default_factory=dict)
    pixels: int = 0

    def table(self) -> str:
        """Return the IoU of each class, and the means."""
        means = {"mIoU": self.miou, "pixel accuracy": self.pixel_accuracy, "mean accuracy": self.mean_accuracy}
        rows = [" IoU by category", *table_rows(self.per_category), "", *table_rows(means)]
        return "\n".join([*rows, f" over {self.pixels} pixels"])


def confusion(truth: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Count the pixels of each pair of labels: (C, C) int64, row the true label, column the predicted one.

    Args:
        truth: integers of any shape, 0..C-1, or 255, which is left out.
        predicted: integers of the same shape, 0..C-1.
        num_classes: C.

    Raises:
        PliantError: another shape, or a label that is out of range.

    Example:
        >>> confusion(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 0, 1, 1]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    if truth.shape != predicted.shape:
        got = f"shape {tuple(predicted.shape)} for shape {tuple(truth.shape)}"
        fail("predicted", "must have the shape of the truth", got, "predict at the image's own size")
    counted = truth != IGNORE
    rows, columns = truth[counted].long(), predicted[counted].long()
    for name, labels in (("truth", rows), ("predicted", columns)):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            got = f"{int(labels.min())} to {int(labels.max())}"
            fail(name, f"must be labels from 0 to {num_classes - 1}", got, "give the classes of the model")
    flat = torch.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def segmentation_metrics(matrix: Tensor, names: Sequence[str]) -> SegmentationMetrics:
    r"""Return the metric of a confusion matrix, which may be the sum of those of many images.

    .. math:: \mathrm{IoU}_c = \frac{M_{cc}}{\sum_k M_{ck} + \sum_k M_{kc} - M_{cc}}, \quad
              \mathrm{mIoU} = \frac{1}{|C'|} \sum_{c \in C'} \mathrm{IoU}_c

    over the classes :math:`C'` with at least one pixel in truth or prediction, as Pascal VOC's development kit does.
    Where that is one class alone the means are undefined: a label that no model could miss is no perfect score.

    Args:
        matrix: (C, C) counts: row the true label, column the predicted one.
        names: those of the C classes.

    Raises:
        PliantError: `matrix` is not C x C.

    Example:
        >>> metrics = segmentation_metrics(torch.tensor([[3, 1], [2, 4]]), ["ground", "tree"])
        >>> metrics.per_category["ground"], round(metrics.miou, 4), metrics.pixel_accuracy
        (0.5, 0.5357, 0.7)
    """
    if matrix.shape != (len(names), len(names)):
        fail(
            "matrix",
            f"must be {len(names)} x {len(names)}",
            f"shape {tuple(matrix.shape)}",
            "give a name for each class",
        )
    counts = matrix.double()
    found, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = true + predicted - found
    ious = [ratio(f, u) for f, u in zip(found.tolist(), union.tolist(), strict=True)]
    several = int((union > 0).sum()) > 1
    recalls = [ratio(f, t) for f, t in zip(found.tolist(), true.tolist(), strict=True)]
    return SegmentationMetrics(
        miou=_mean(ious) if several else UNDEFINED,
        pixel_accuracy=ratio(float(found.sum()), float(counts.sum())),
        mean_accuracy=_mean(recalls) if several else UNDEFINED,
        per_category=dict(zip(names, ious, strict=True)),
        pixels=int(matrix.sum()),
    )


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if value != UNDEFINED]
    return sum(defined) / len(defined) if defined else UNDEFINED
