# SPDX-License-Identifier: Apache-2.0
"""What runs with a curve, those of warped shapes and of ablations, reached at their end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.accuracy.rows import Row


def by_seed(rows: Sequence[Row], **wanted: object) -> dict[int, float]:
    """Return the accuracy at the end for each seed of the runs whose key has the wanted values."""
    chosen = [row for row in rows if all(row["key"][name] == value for name, value in wanted.items())]
    return {row["key"]["seed"]: row["accuracy"][-1] for row in chosen}


def mean_seconds(rows: Sequence[Row]) -> float:
    """Return the mean CPU seconds of training."""
    return statistics.fmean(row["cpu_seconds"][-1] for row in rows)
