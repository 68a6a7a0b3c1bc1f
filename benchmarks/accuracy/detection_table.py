# SPDX-License-Identifier: Apache-2.0
"""The tables of the study of detection, from its committed rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.accuracy.bootstrap import interval
from benchmarks.accuracy.detection import ARMS
from benchmarks.accuracy.intervals import paired, signed
from benchmarks.accuracy.rows import Row

CONTROL = "plain"
LAYERS = "pyramid-mdconv"  # the control of what is added to the layers
STILL = "pyramid-still"  # the control of the layers' deformation
COMPARED = ("ap", "ap50", "ap75")
SHOWN = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


def table(rows: Sequence[Row]) -> str:
    """Return a table of the runs of one data set and one length of training, an arm and a seed in each row."""
    plain = _by_seed(rows, CONTROL)
    columns = ["arm", "seed", "parameters", *SHOWN.values(), "AP to plain", "AP50 to plain", "CPU seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in sorted(rows, key=lambda row: (row["key"]["seed"], list(ARMS).index(row["key"]["arm"]))):
        key, seconds = row["key"], row["cpu_seconds"]
        control = plain.get(key["seed"]) if key["arm"] != CONTROL else None
        cells = [key["arm"], str(key["seed"]), f"{row['parameters']:,}"]
        cells += [_value(row, name) for name in SHOWN]
        cells += [difference(row, control, name) if control else "" for name in ("ap", "ap50")]
        cells.append("not known" if seconds is None else f"{seconds:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *_over_seeds(rows)])


def _value(row: Row, name: str) -> str:
    if row[name] < 0:
        return "none"  # COCO's -1: no object of this size
    text = f"{row[name]:.3f}"
    if name not in row["draws"]:
        return text
    low, high = interval(row["draws"][name])
    return f"{text} ({low:.3f} to {high:.3f})"


def difference(row: Row, control: Row, name: str) -> str:
    """Return a number's difference between two runs, and its 95 % interval over the test sets drawn for both."""
    drawn = [a - b for a, b in zip(row["draws"][name], control["draws"][name], strict=True)]
    low, high = interval(drawn)
    return f"{row[name] - control[name]:+.3f} ({low:+.3f} to {high:+.3f})"


def _over_seeds(rows: Sequence[Row]) -> list[str]:
    """Return a table of the mean differences to each arm's controls, over the seeds that both have."""
    columns = ["over seeds", "compared with", "AP", *(f"difference in {SHOWN[name]}" for name in COMPARED)]
    lines = ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    pairs = [(arm, control) for arm in ARMS for control in controls(arm)]
    for arm, control in pairs:
        ours, theirs = _by_seed(rows, arm), _by_seed(rows, control)
        common = ours.keys() & theirs.keys()
        if len(common) < 2:
            continue
        cells = [arm, control, f"{statistics.fmean(ours[seed]['ap'] for seed in common):.3f}"]
        for name in COMPARED:
            of = ({seed: row[name] for seed, row in runs.items()} for runs in (ours, theirs))
            cells.append(signed(paired(*of)))
        lines.append("| " + " | ".join(cells) + " |")
    return lines if len(lines) > 3 else []


def controls(arm: str) -> tuple[str, ...]:
    """Return the arms that an arm is compared with over seeds."""
    if arm == CONTROL:
        return ()
    if arm == LAYERS:
        return CONTROL, STILL
    return (CONTROL, LAYERS) if arm.startswith(f"{LAYERS}+") else (CONTROL,)


def _by_seed(rows: Sequence[Row], arm: str) -> dict[int, Row]:
    return {row["key"]["seed"]: row for row in rows if row["key"]["arm"] == arm}
