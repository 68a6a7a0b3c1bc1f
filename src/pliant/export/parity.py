# SPDX-License-Identifier: Apache-2.0
"""How far a file's outputs are from the model's, by what kind of output they are, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SCORE = 0.05  # detections of less are not compared: NMS and the least score let them come and go by rounding
MAX_PIXELS, MAX_SCORE = 1.0, 0.01  # how far a detection's partner may be from it
BUDGETS = {
    "detections without a partner": 0.02,
    "mask pixels that differ": 0.01,
    "labels that differ": 0.001,
    "largest difference over the largest value": 0.001,
}


@dataclass(frozen=True)
class Difference:
    """What was compared, how much of it differs, and how much may.

    Attributes:
        output: the output's name, or "detections" for boxes, labels and scores together.
        measure: what `value` is, a share from 0 to 1 or a ratio.
        value: what was found.
        budget: the largest value that passes.
        compared: how many numbers, pixels or detections were compared.
    """

    output: str
    measure: str
    value: float
    budget: float
    compared: int

    @property
    def passes(self) -> bool:
        """Say whether the value is within the budget; one that is not a number is not."""
        return self.value <= self.budget

    def __str__(self) -> str:
        return f"{self.output}: {self.measure} {self.value:.2g} of {self.compared}, at most {self.budget:g}"


def differences(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Difference]:
    """Compare a file's outputs with the model's, each by its kind.

    Detections (boxes (D, 4), labels (D,), scores (D,)) of a score of 0.05 or more are looked for in the other's, in
    any order: a partner has the same label, corners within a pixel and a score within 0.01. The masks (D, 1, H, W) of
    partners are compared where they are 0.5 or more, as a share of the pixels of either. Integers are labels, of which
    those that differ are counted. Other outputs are compared by their largest difference.

    Args:
        got: the file's outputs by name.
        expected: the model's.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[1, 2, 2], [0, 0, 1]])
        >>> [difference] = differences({"labels": labels.clamp(max=1)}, {"labels": labels})
        >>> round(difference.value, 3), difference.passes
        (0.333, False)
    """
    if {"boxes", "labels", "scores"} <= expected.keys():
        return _of_detections(got, expected)
    return [
        _of_labels(name, got[name], value) if not value.dtype.is_floating_point else _of_numbers(name, got[name], value)
        for name, value in expected.items()
    ]


def _difference(output: str, measure: str, value: float, compared: int) -> Difference:
    return Difference(output, measure, value, BUDGETS[measure], compared)


def _of_numbers(name: str, got: Tensor, expected: Tensor) -> Difference:
    measure = "largest difference over the largest value"
    if got.shape != expected.shape:
        return _difference(name, measure, float("inf"), expected.numel())
    if not expected.numel():
        return _difference(name, measure, 0.0, 0)
    scale = expected.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    value = float((got.double() - expected.double()).abs().max() / scale)
    return _difference(name, measure, value, expected.numel())


def _of_labels(name: str, got: Tensor, expected: Tensor) -> Difference:
    measure = "labels that differ"
    if got.shape != expected.shape:
        return _difference(name, measure, 1.0, expected.numel())
    share = float((got != expected).double().mean()) if expected.numel() else 0.0
    return _difference(name, measure, share, expected.numel())


def _of_detections(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Difference]:
    alone, total = 0, 0
    for one, other in ((got, expected), (expected, got)):
        sure = one["scores"] >= MIN_SCORE
        total += int(sure.sum())
        alone += int((~_are_partners(one, other).any(1))[sure].sum())
    found = [_difference("detections", "detections without a partner", alone / max(total, 1), total)]
    if "masks" in expected:
        found.append(_of_masks(got, expected))
    return found


def _are_partners(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """Return (D, E): whether detection e of `other` is what d of `one` is, up to rounding."""
    corners = (one["boxes"][:, None] - other["boxes"]).abs().amax(-1)
    scores = (one["scores"][:, None] - other["scores"]).abs()
    return (one["labels"][:, None] == other["labels"]) & (corners <= MAX_PIXELS) & (scores <= MAX_SCORE)


def _of_masks(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Difference:
    partners = _are_partners(expected, got)
    rows = (expected["scores"] >= MIN_SCORE) & partners.any(1)
    wanted = expected["masks"][rows] >= 0.5
    found = got["masks"][partners[rows].int().argmax(1)] >= 0.5
    pixels = int((wanted | found).sum())
    return _difference("masks", "mask pixels that differ", int((wanted != found).sum()) / max(pixels, 1), pixels)
