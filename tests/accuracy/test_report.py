# SPDX-License-Identifier: Apache-2.0
"""Intervals and tables by hand, and the page of evidence held to the committed rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import (  # noqa: E402
    ablations,
    detection,
    detection_table,
    equal_time,
    instances,
    report,
    segmentation,
)
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
    lines = report.tables(rows, "epochs", report.warped_table).splitlines()
    assert lines[0] == "**animals, 20 epochs**"
    assert lines[2] == "| strength of the warp | plain-equal, 49,409 parameters | dcnv2-2, 48,944 parameters |"
    assert lines[4] == "| 0.0 |  | 0.900 (one seed) |"
    assert lines[5] == "| 1.0 | 0.700 (one seed) | 0.750 (one seed); gain +0.050 (one seed) |"
    assert lines[6] == "| CPU seconds of training, mean | 8 | 13 |"
    assert lines[-1] == "3 runs of one thread each, on made up, PyTorch 2.15.0; commit abc."


def test_a_loss_is_no_gain() -> None:
    rows = [_row("plain-equal", 1.0, 0, 0.70), _row("dcnv2-2", 1.0, 0, 0.65)]
    assert "gain -0.050 (one seed)" in report.warped_table(rows)


def _detector(arm: str, seed: int, ap: float, drawn: list[float], ap_small: float = 0.1) -> dict[str, Any]:
    return {
        "key": {"dataset": "neu", "arm": arm, "steps": 400, "seed": seed},
        "parameters": 1234567,
        **dict.fromkeys(("ap50", "ap75", "ap_medium", "ap_large"), 0.5),
        "ap": ap,
        "ap_small": ap_small,
        "draws": {"ap": drawn, "ap50": [0.4, 0.6]},
        "cpu_seconds": 99.6,
    }


def test_the_table_of_detectors_by_hand() -> None:
    rows = [_detector("pyramid-mdconv", 0, 0.30, [0.24, 0.40]), _detector("plain", 0, 0.28, [0.20, 0.32], -1)]
    lines = detection_table.table(rows).splitlines()
    # The quantiles of two values are 2.5 % of the way from either end; differences are taken draw by draw.
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:5] == ["plain", "0", "1,234,567", "0.280 (0.203 to 0.317)", "0.500 (0.405 to 0.595)"]
    assert cells[5:] == ["0.500", "none", "0.500", "0.500", "", "", "100"]
    assert lines[3].startswith("| pyramid-mdconv | 0 | 1,234,567 | 0.300 (0.244 to 0.396) |")
    assert lines[3].endswith("| +0.020 (+0.041 to +0.079) | +0.000 (+0.000 to +0.000) | 100 |")
    assert len(lines) == 4


def test_detectors_over_seeds_by_hand() -> None:
    drawn = [0.2, 0.3]
    rows = [_detector("plain", s, ap, drawn) for s, ap in ((0, 0.2), (1, 0.3), (2, 0.9))]
    rows += [_detector("pyramid-mdconv", s, ap, drawn) for s, ap in ((0, 0.22), (1, 0.34))]
    rows += [_detector("pyramid-mdconv+dpool", s, ap, drawn) for s, ap in ((1, 0.40), (0, 0.24))]
    same = "+0.000 ± 0.000 (2 seeds) | +0.000 ± 0.000 (2 seeds)"
    assert detection_table.table(rows).splitlines()[-4:] == [
        "|---|---|---|---|---|---|",
        f"| pyramid-mdconv | plain | 0.280 | +0.030 ± 0.127 (2 seeds) | {same} |",
        f"| pyramid-mdconv+dpool | plain | 0.320 | +0.070 ± 0.381 (2 seeds) | {same} |",
        f"| pyramid-mdconv+dpool | pyramid-mdconv | 0.320 | +0.040 ± 0.254 (2 seeds) | {same} |",
    ]


def test_the_table_of_segmenters_by_hand() -> None:
    def row(arm: str, seed: int, own: float, turned: float) -> dict[str, Any]:
        return {
            "key": {"arm": arm, "seed": seed},
            "parameters": 4100685,
            "metrics": {"miou": own},
            "tests": {"turn-90": {"miou": turned}},
            "cpu_seconds": None if seed else 200.4,
        }

    rows = [row("plain", 0, 0.5, 0.2), row("plain", 1, 0.6, 0.3), row("still-c5", 1, 0.55, 0.4)]
    rows += [row("mdconv-c5", 1, 0.7, 0.35), row("mdconv-c5", 0, 0.7, 0.25)]
    assert report.segmentation_table(rows).splitlines() == [
        "| arm | parameters | mIoU | difference in mIoU | CPU seconds |",
        "|---|---|---|---|---|",
        "| plain | 4,100,685 | 0.550 ± 0.635 (2 seeds) |  | 200 |",
        "| still-c5 | 4,100,685 | 0.550 (one seed) | -0.050 (one seed) to plain | not known |",
        "| mdconv-c5 | 4,100,685 | 0.700 ± 0.000 (2 seeds) | +0.150 ± 0.635 (2 seeds) to plain; "
        "+0.150 (one seed) to still-c5 | 200 |",
        "",
        "| mIoU on | plain | mdconv-c5 |",
        "|---|---|---|",
        "| turn-90 | 0.250 ± 0.635 (2 seeds) | 0.300 ± 0.635 (2 seeds); +0.050 ± 0.000 (2 seeds) to plain; "
        "-0.050 (one seed) to still-c5 |",
    ]


def test_gains_at_equal_time_by_hand() -> None:
    def row(arm: str, epochs: int, seed: int, seconds: float, last: float) -> dict[str, Any]:
        key = {"arm": arm, "epochs": epochs, "seed": seed}
        return {"key": key, "cpu_seconds": [1.0, seconds], "accuracy": [0.0, last]}

    plain = [row("plain-equal", 10, seed, 40, 0.5 + 0.1 * seed) for seed in (0, 1)]
    plain += [row("plain-equal", 20, seed, 90, 0.8) for seed in (0, 1)]
    # 60 seconds are half way from 40 to 90 on a scale of ratios: plain has 0.65 and 0.7 there.
    middle = [row("dcnv2-1", 10, 0, 60, 0.75), row("dcnv2-1", 10, 1, 60, 0.81)]
    outside = [row("dcnv2-1", 5, 0, 30, 0.9), row("dcnv2-1", 20, 0, 95, 0.9)]
    exact = [row("dcnv2-2", 20, 1, 90, 0.7)]
    lines = equal_time.table([*plain, *middle, *outside, *exact], ("plain-equal", "dcnv1-1", "dcnv2-1", "dcnv2-2"))
    assert lines.splitlines()[2:] == [
        "| plain-equal | 10 | 40 | 0.550 ± 0.635 (2 seeds) |  |",
        "| plain-equal | 20 | 90 | 0.800 ± 0.000 (2 seeds) |  |",
        "| dcnv2-1 | 5 | 30 | 0.900 (one seed) | beyond the control's lengths |",
        "| dcnv2-1 | 10 | 60 | 0.780 ± 0.381 (2 seeds) | +0.105 ± 0.064 (2 seeds) |",
        "| dcnv2-1 | 20 | 95 | 0.900 (one seed) | beyond the control's lengths |",
        "| dcnv2-2 | 20 | 90 | 0.700 (one seed) | -0.100 (one seed) |",
    ]


def test_the_table_of_ablations_by_hand() -> None:
    def row(arm: str, seed: int, last: float) -> dict[str, Any]:
        return {
            "key": {"arm": arm, "seed": seed},
            "parameters": 48944,
            "accuracy": [0.1, last],
            "cpu_seconds": [9, 21.4],
        }

    rows = [row("base", 0, 0.7), row("base", 1, 0.8), row("layers-3", 0, 0.72), row("rate-1", 2, 0.9)]
    assert report.ablation_table(rows).splitlines()[2:] == [
        "| base | 48,944 | 0.750 ± 0.635 (2 seeds) |  | 21 |",
        "| layers-3 | 48,944 | 0.720 (one seed) | +0.020 (one seed) | 21 |",
        "| rate-1 | 48,944 | 0.900 (one seed) |  | 21 |",
    ]


def test_the_page_holds_the_tables_of_the_committed_rows() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.written(page) == page, "run python -m benchmarks.accuracy.report"


def test_every_committed_row_is_of_the_plan_and_none_is_there_twice() -> None:
    studies = (
        (ROWS, plan()),
        (detection.ROWS, detection.plan()),
        (ablations.ROWS, ablations.plan()),
        *((study.rows, study.plan("scenes")) for study in (segmentation.STUDY, instances.STUDY)),
    )
    for path, planned in studies:
        keys = [row["key"] for row in read_rows(path)]
        assert all(key in planned for key in keys)
        assert len({str(key) for key in keys}) == len(keys)


def test_marks_that_are_not_there_once_are_an_error() -> None:
    with pytest.raises(ValueError, match="once"):
        report.with_tables("no marks", "warped", "x")


def test_the_figure_is_small_and_shows_every_arm(tmp_path: Path) -> None:
    rows = [
        _row(arm, s, seed, 0.5 + 0.1 * s) for arm in ("plain-equal", "dcnv2-2") for s in (0.0, 1.0) for seed in (0, 1)
    ]
    report.draw(rows, tmp_path / "f" / "figure.svg")
    drawn = (tmp_path / "f" / "figure.svg").read_text(encoding="utf-8")
    assert len(drawn) < 150_000
    assert ">plain-equal<" in drawn and ">dcnv2-2<" in drawn and "animals, 20 epochs" in drawn
