# SPDX-License-Identifier: Apache-2.0
"""The driver of the studies: what is done is not done again, what was finished is kept, no run is planned twice."""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import warped  # noqa: E402
from benchmarks.accuracy.datasets import checked  # noqa: E402
from benchmarks.accuracy.rows import append_row, missing, read_rows, run_missing  # noqa: E402

PLAN = [{"arm": arm, "seed": seed} for seed in (0, 1) for arm in ("b", "a")]


def measured(key: dict[str, object], log: Path) -> dict[str, object]:
    """Stand for a run, in a process of its own."""
    if key["arm"] == "broken":
        raise RuntimeError("this run breaks")
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{key['arm']}{key['seed']}\n")
    return {"accuracy": [0.5]}


def test_only_missing_runs_are_made_in_the_order_of_the_plan(tmp_path: Path) -> None:
    rows, log = tmp_path / "deep" / "rows.jsonl", tmp_path / "log"
    append_row(rows, {"key": {"seed": 0, "arm": "a"}, "accuracy": [0.9]})
    left = run_missing(PLAN, functools.partial(measured, log=log), rows, jobs=1, seconds=3600, commit="abc")
    assert left == 0
    assert log.read_text(encoding="utf-8").split() == ["b0", "b1", "a1"]
    written = read_rows(rows)
    assert [row["key"] for row in written[1:]] == [PLAN[0], PLAN[2], PLAN[3]]
    assert written[0]["accuracy"] == [0.9], "an earlier row stays as it was"
    assert written[1]["commit"] == "abc" and written[1]["machine"]["threads"] == 1
    assert written[1]["wall_seconds"] >= 0


def test_nothing_starts_after_the_time_is_over(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    assert run_missing(PLAN, time.sleep, rows, jobs=1, seconds=0, commit="abc") == 4  # type: ignore[arg-type]
    assert not rows.exists()


def test_a_run_that_breaks_stops_the_study_and_leaves_the_finished_rows(tmp_path: Path) -> None:
    rows, log = tmp_path / "rows.jsonl", tmp_path / "log"
    plan = [PLAN[0], {"arm": "broken", "seed": 0}, PLAN[1]]
    with pytest.raises(RuntimeError, match="this run breaks"):
        run_missing(plan, functools.partial(measured, log=log), rows, jobs=1, seconds=3600, commit="abc")
    assert [row["key"] for row in read_rows(rows)] == [PLAN[0]]


def test_a_row_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for value in ("a\nb", "c"):
        append_row(path, {"key": {"arm": value}})
    assert [json.loads(line)["key"]["arm"] for line in path.read_text(encoding="utf-8").splitlines()] == ["a\nb", "c"]
    assert missing([{"arm": "c"}, {"arm": "d"}], read_rows(path)) == [{"arm": "d"}]


def test_the_plan_of_warped_shapes_is_whole_and_holds_no_run_twice() -> None:
    plan = warped.plan()
    assert len({json.dumps(key, sort_keys=True) for key in plan}) == len(plan)
    full = [key for key in plan if key["epochs"] == 20]
    assert len(full) == 2 * 5 * 6 * 5, "data sets, strengths, arms, seeds"
    assert {key["dataset"] for key in warped.plan(("fashion",))} == {"fashion"}


def test_the_control_has_more_parameters_than_every_deformable_arm() -> None:
    sizes = {arm: sum(p.numel() for p in warped.build(arm).parameters()) for arm in warped.ARMS}
    assert max(size for arm, size in sizes.items() if arm != "plain-equal") == sizes["dcnv2-2"] < sizes["plain-equal"]
    assert sizes["plain-equal"] < 1.02 * sizes["dcnv2-2"]
    assert sizes["dcnv1-1"] < sizes["dcnv2-1"]


def test_a_package_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"other")
    with pytest.raises(
        ValueError, match="x.whl: must have the sha256 00; got d9298a10d1b0735837dc4bd85dac641b0f3cef27"
    ):
        checked(tmp_path, "x.whl", "00")
