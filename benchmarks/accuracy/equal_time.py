# SPDX-License-Identifier: Apache-2.0
"""Top-1 on warped shapes at equal CPU time: what plain networks reach in the time of a deformable one's training.

Plain networks were trained for 20, 40, 80 ... epochs. Between two of these lengths accuracy is taken to be linear in
the logarithm of the CPU time; beyond them nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.accuracy.curves import by_seed, mean_seconds
from benchmarks.accuracy.intervals import Mean, mean, signed
from benchmarks.accuracy.rows import Row
from benchmarks.accuracy.warped import CONTROL

Lengths = dict[int, list[Row]]  # epochs, and the runs of them


def table(rows: Sequence[Row], arms: Sequence[str]) -> str:
    """Return the arms' lengths of training in rows, beside the control's top-1 after as much CPU time.

    Args:
        rows: of one data set and one strength of warp, all of one processor.
        arms: in the order in which they are shown.
    """
    control = by_epochs(rows, CONTROL)
    lines = ["| arm | epochs | CPU seconds | top-1 | gain at equal CPU time |", "|---|---|---|---|---|"]
    for arm in arms:
        for epochs, runs in by_epochs(rows, arm).items():
            gain = equal_time_gain(runs, control) if arm != CONTROL else None
            told = signed(gain) if gain else ("" if arm == CONTROL else "beyond the control's lengths")
            top1 = mean([run["accuracy"][-1] for run in runs])
            lines.append(f"| {arm} | {epochs} | {mean_seconds(runs):.0f} | {top1} | {told} |")
    return "\n".join(lines)


def by_epochs(rows: Sequence[Row], arm: str) -> Lengths:
    """Return an arm's runs by their length, the shorter ones first."""
    own = [row for row in rows if row["key"]["arm"] == arm]
    lengths = sorted({row["key"]["epochs"] for row in own})
    return {epochs: [row for row in own if row["key"]["epochs"] == epochs] for epochs in lengths}


def equal_time_gain(runs: Sequence[Row], control: Lengths) -> Mean | None:
    """Return the mean gain over the control after as much CPU time, over the seeds that both have; None beyond it."""
    wanted = mean_seconds(runs)
    times = {epochs: mean_seconds(of) for epochs, of in control.items()}
    shorter = [epochs for epochs in times if times[epochs] <= wanted]
    longer = [epochs for epochs in times if times[epochs] >= wanted]
    if not shorter or not longer:
        return None
    low, high = max(shorter), min(longer)
    before, after = by_seed(control[low]), by_seed(control[high])
    span = math.log(times[high] / times[low])
    part = math.log(wanted / times[low]) / span if span else 0.0
    ours = by_seed(runs)
    common = sorted(ours.keys() & before.keys() & after.keys())
    gains = [ours[seed] - (before[seed] + part * (after[seed] - before[seed])) for seed in common]
    return mean(gains) if gains else None
