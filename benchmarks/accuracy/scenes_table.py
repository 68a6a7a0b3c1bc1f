# SPDX-License-Identifier: Apache-2.0
"""The tables of the studies on scenes of animals, from their committed rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.accuracy.intervals import mean, paired, signed
from benchmarks.accuracy.rows import Row
from benchmarks.accuracy.scenes import Study

Numbers = Mapping[str, str]  # by their titles; the first is compared with that of the controls


def table(rows: Sequence[Row], study: Study, numbers: Numbers) -> str:
    """Return the arms on the scenes that they were trained for, then those of several seeds on other scenes."""
    arms = [arm for arm in study.arms if any(row["key"]["arm"] == arm for row in rows)]
    title, decisive = next(iter(numbers.items()))
    columns = ["arm", "parameters", *numbers, f"difference in {title}", "CPU seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for arm in arms:
        own = [row for row in rows if row["key"]["arm"] == arm]
        seconds = [row["cpu_seconds"] for row in own if row["cpu_seconds"] is not None]
        cells = [arm, f"{own[0]['parameters']:,}"]
        cells += [str(mean(list(by_seed(rows, arm, number).values()))) for number in numbers.values()]
        cells += ["; ".join(_gains(rows, arm, study, decisive))]
        lines.append("| " + " | ".join([*cells, f"{statistics.fmean(seconds):.0f}" if seconds else "not known"]) + " |")
    tests = sorted({name for row in rows for name in row["tests"]})
    arms = [arm for arm in arms if len(by_seed(rows, arm, decisive)) > 1]
    if tests and arms:
        lines += ["", f"| {title} on | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for test in tests:
        cells = [
            "; ".join([str(mean(list(by_seed(rows, arm, decisive, test).values()))),
                       *_gains(rows, arm, study, decisive, test)])
            for arm in arms
        ]  # fmt: skip
        lines.append(f"| {test} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_seed(rows: Sequence[Row], arm: str, number: str, test: str | None = None) -> dict[int, float]:
    """Return a number of an arm's networks by seed, on their own kind of scenes or on those of a test."""
    own = [row for row in rows if row["key"]["arm"] == arm]
    return {row["key"]["seed"]: (row["tests"][test] if test else row["metrics"])[number] for row in own}


def _gains(rows: Sequence[Row], arm: str, study: Study, number: str, test: str | None = None) -> list[str]:
    """Return the differences to the arm's controls, over the seeds that both have."""
    ours = by_seed(rows, arm, number, test)
    gains = {control: paired(ours, by_seed(rows, control, number, test)) for control in study.controls.get(arm, ())}
    return [f"{signed(gain)} to {control}" for control, gain in gains.items() if gain]
