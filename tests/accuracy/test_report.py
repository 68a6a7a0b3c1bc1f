# SPDX-License-Identifier: Apache-2.0
"""Intervals and tables by hand, and the page of evidence held to the committed rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import report  # noqa: E402
from benchmarks.accuracy.intervals import mean, paired  # noqa: E402
from benchmarks.accuracy.rows import read_rows  # noqa: E402
from benchmarks.accuracy.warped import ROWS, plan  # noqa: E402


def _row(arm: str, strength: float, seed: int, last: float, seconds: float = 10.0) -> dict[str, Any]:
    key = {"dataset": "animals", "strength": strength, "arm": arm, "epochs": 20, "seed": seed}
    size = {"plain-equal": 49409, "dcnv2-2": 48944}[arm]
    machine = {"cpu": "made up", "torch": "2.15.0"}
    return {"key": key, "parameters": size, "accuracy": [0.1, last], "cpu_seconds": [1.0, seconds], "commit": "abc",
            "machine": machine}  # fmt: skip


def test_intervals_by_hand() -> None:
    # Spread sqrt(((-1)^2 + 0 + 1^2) / 2) = 1, over sqrt(3), times 4.303.
    three = mean([1.0, 2.0, 3.0])
    assert (three.value, three.half, three.count) == (2.0, pytest.approx(4.303 / 3**0.5), 3)
    assert str(mean([0.25])) == "0.250 (one seed)"
    assert str(mean([0.2, 0.4])) == "0.300 ± 1.271 (2 seeds)"


def test_differences_are_taken_seed_by_seed() -> None:
    gain = paired({0: 0.9, 1: 0.7, 3: 0.1}, {0: 0.8, 1: 0.5, 2: 0.9})
    assert gain is not None and gain.value == pytest.approx(0.15) and gain.count == 2
    assert gain.half == pytest.approx(12.706 * 0.05)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_the_table_by_hand() -> None:
    rows = [
        _row("plain-equal", 1.0, 0, 0.70, 8.0),
        _row("dcnv2-2", 1.0, 0, 0.75, 12.0),
        _row("dcnv2-2", 0.0, 0, 0.9, 14.0),
    ]
    lines = report.tables(rows).splitlines()
    assert lines[0] == "**animals, 20 epochs**"
    assert lines[2] == "| strength of the warp | plain-equal, 49,409 parameters | dcnv2-2, 48,944 parameters |"
    assert lines[4] == "| 0.0 |  | 0.900 (one seed) |"
    assert lines[5] == "| 1.0 | 0.700 (one seed) | 0.750 (one seed); gain +0.050 (one seed) |"
    assert lines[6] == "| CPU seconds of training, mean | 8 | 13 |"
    assert lines[-1] == "3 runs of one thread each, on made up, PyTorch 2.15.0; commit abc."


def test_a_loss_is_no_gain() -> None:
    rows = [_row("plain-equal", 1.0, 0, 0.70), _row("dcnv2-2", 1.0, 0, 0.65)]
    assert "gain -0.050 (one seed)" in report.tables(rows)


def test_the_page_holds_the_tables_of_the_committed_rows() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.with_tables(page, report.tables(read_rows(ROWS))) == page, "run python -m benchmarks.accuracy.report"


def test_every_committed_row_is_of_the_plan_and_none_is_there_twice() -> None:
    keys = [row["key"] for row in read_rows(ROWS)]
    assert all(key in plan() for key in keys)
    assert len({str(key) for key in keys}) == len(keys)


def test_marks_that_are_not_there_once_are_an_error() -> None:
    with pytest.raises(ValueError, match="once"):
        report.with_tables("no marks", "x")


def test_the_figure_is_small_and_shows_every_arm(tmp_path: Path) -> None:
    rows = [
        _row(arm, s, seed, 0.5 + 0.1 * s) for arm in ("plain-equal", "dcnv2-2") for s in (0.0, 1.0) for seed in (0, 1)
    ]
    report.draw(rows, tmp_path / "f" / "figure.svg")
    drawn = (tmp_path / "f" / "figure.svg").read_text(encoding="utf-8")
    assert len(drawn) < 150_000
    assert ">plain-equal<" in drawn and ">dcnv2-2<" in drawn and "animals, 20 epochs" in drawn
