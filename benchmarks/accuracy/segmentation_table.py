# SPDX-License-Identifier: Apache-2.0
"""The tables of the study of segmentation, from its committed rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.accuracy.intervals import mean, paired, signed
from benchmarks.accuracy.rows import Row
from benchmarks.accuracy.segmentation import STUDY

CONTROLS = ("plain", "still-c5")


def table(rows: Sequence[Row]) -> str:
    """Return the arms on the scenes that they were trained for; then, if there are any, on other folders of scenes."""
    arms = [arm for arm in STUDY.arms if any(row["key"]["arm"] == arm for row in rows)]
    columns = ["arm", "parameters", "mIoU", *(f"to {control}" for control in CONTROLS), "CPU seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for arm in arms:
        own = [row for row in rows if row["key"]["arm"] == arm]
        seconds = [row["cpu_seconds"] for row in own if row["cpu_seconds"] is not None]
        cells = [arm, f"{own[0]['parameters']:,}", str(mean(list(by_seed(rows, arm).values())))]
        cells += [_gain(rows, arm, control) for control in CONTROLS]
        lines.append("| " + " | ".join([*cells, f"{statistics.fmean(seconds):.0f}" if seconds else "not known"]) + " |")
    tests = sorted({name for row in rows for name in row["tests"]})
    if tests:
        lines += ["", "| scenes | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for test in tests:
        cells = [f"{mean(list(by_seed(rows, arm, test).values()))}{_gains(rows, arm, test)}" for arm in arms]
        lines.append(f"| {test} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_seed(rows: Sequence[Row], arm: str, test: str | None = None) -> dict[int, float]:
    """Return the mIoU of an arm's networks by seed, on their own kind of scenes or on those of a test."""
    own = [row for row in rows if row["key"]["arm"] == arm]
    return {row["key"]["seed"]: (row["tests"][test] if test else row["metrics"])["miou"] for row in own}


def _gain(rows: Sequence[Row], arm: str, control: str, test: str | None = None) -> str:
    gain = paired(by_seed(rows, arm, test), by_seed(rows, control, test)) if arm != control else None
    return signed(gain) if gain else ""


def _gains(rows: Sequence[Row], arm: str, test: str) -> str:
    found = {control: _gain(rows, arm, control, test) for control in CONTROLS}
    return "".join(f"; {gain} to {control}" for control, gain in found.items() if gain)
