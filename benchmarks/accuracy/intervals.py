# SPDX-License-Identifier: Apache-2.0
"""Means over seeds with their 95 % intervals (Student's t)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The 97.5 % quantile of Student's t for 1, 2, 3 ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Mean:
    """A mean over `count` seeds and the half width of its 95 % interval, None for a single seed."""

    value: float
    half: float | None
    count: int

    def __str__(self) -> str:
        """Return the mean with its interval, or with a word that there is none."""
        if self.half is None:
            return f"{self.value:.3f} (one seed)"
        return f"{self.value:.3f} ± {self.half:.3f} ({self.count} seeds)"


def signed(gain: object) -> str:
    """Return a difference with its sign, + too."""
    text = str(gain)
    return text if text.startswith("-") else f"+{text}"


def mean(values: Sequence[float]) -> Mean:
    """Return the mean of one value a seed, for up to ten seeds."""
    count = len(values)
    if count == 1:
        return Mean(values[0], None, 1)
    half = T_975[count - 2] * statistics.stdev(values) / math.sqrt(count)
    return Mean(statistics.fmean(values), half, count)


def paired(ours: dict[int, float], other: dict[int, float]) -> Mean | None:
    """Return the mean difference over the seeds that both have, None if there are none."""
    common = sorted(ours.keys() & other.keys())
    return mean([ours[seed] - other[seed] for seed in common]) if common else None
