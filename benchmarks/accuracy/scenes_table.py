# SPDX-License-Identifier: Apache-2.0
"""The tables of the studies on scenes of animals, from their committed rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.intervals import mean, paired, signed
from benchmarks.accuracy.rows import Row


@dataclass(frozen=True)
class View:
    """What a table shows: numbers by their titles, of which the first is compared with those of the controls."""

    numbers: dict[str, str]
    controls: tuple[str, ...]

    @property
    def decisive(self) -> str:
        """The number that is compared."""
        return next(iter(self.numbers.values()))


SEGMENTATION = View({"mIoU": "miou"}, ("plain", "still-c5"))
_CONTROLS = ("plain", "still-c5", "pyramid-mdconv")
BOXES = View({"box AP": "ap", "AP50": "ap50", "medium": "ap_medium", "large": "ap_large"}, _CONTROLS)
MASKS = View(
    {"mask AP": "mask_ap", "AP50": "mask_ap50", "medium": "mask_ap_medium", "large": "mask_ap_large"}, _CONTROLS
)


def table(rows: Sequence[Row], arms: Sequence[str], view: View) -> str:
    """Return the arms on the scenes that they were trained for; then, if there are any, on other folders of scenes."""
    arms = [arm for arm in arms if any(row["key"]["arm"] == arm for row in rows)]
    controls = [control for control in view.controls if control in arms]
    columns = ["arm", "parameters", *view.numbers, *(f"to {control}" for control in controls), "CPU seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for arm in arms:
        own = [row for row in rows if row["key"]["arm"] == arm]
        seconds = [row["cpu_seconds"] for row in own if row["cpu_seconds"] is not None]
        cells = [arm, f"{own[0]['parameters']:,}"]
        cells += [str(mean(list(by_seed(rows, arm, number).values()))) for number in view.numbers.values()]
        cells += [_gain(rows, arm, control, view.decisive) for control in controls]
        lines.append("| " + " | ".join([*cells, f"{statistics.fmean(seconds):.0f}" if seconds else "not known"]) + " |")
    tests = sorted({name for row in rows for name in row["tests"]})
    if tests:
        lines += ["", "| scenes | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for test in tests:
        cells = [_tested(rows, arm, test, view, controls) for arm in arms]
        lines.append(f"| {test} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_seed(rows: Sequence[Row], arm: str, number: str, test: str | None = None) -> dict[int, float]:
    """Return a number of an arm's networks by seed, on their own kind of scenes or on those of a test."""
    own = [row for row in rows if row["key"]["arm"] == arm]
    return {row["key"]["seed"]: (row["tests"][test] if test else row["metrics"])[number] for row in own}


def _gain(rows: Sequence[Row], arm: str, control: str, number: str, test: str | None = None) -> str:
    gain = paired(by_seed(rows, arm, number, test), by_seed(rows, control, number, test)) if arm != control else None
    return signed(gain) if gain else ""


def _tested(rows: Sequence[Row], arm: str, test: str, view: View, controls: Sequence[str]) -> str:
    found = {control: _gain(rows, arm, control, view.decisive, test) for control in controls}
    gains = "".join(f"; {gain} to {control}" for control, gain in found.items() if gain)
    return f"{mean(list(by_seed(rows, arm, view.decisive, test).values()))}{gains}"
