# SPDX-License-Identifier: Apache-2.0
"""A short, seeded run of the fuzzing of every reader; `make fuzz` goes on for ever."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from helpers.fuzz import readers
from helpers.fuzz.readers import Target, fuzz, targets

FILES = 60


@pytest.mark.parametrize("name", sorted(targets()))
def test_changed_files_are_taken_or_refused_in_one_line(name: str) -> None:
    outcomes = dict(fuzz(name, range(FILES), seed=2017))
    found = {number: outcome for number, outcome in outcomes.items() if outcome not in ("taken", "refused")}
    assert not found, next(iter(found.items()))
    assert Counter(outcomes.values())["refused"] >= 3


def test_each_seed_is_taken_as_it_is(tmp_path: Path) -> None:
    for name, target in targets().items():
        root = tmp_path / name
        root.mkdir()
        target.prepare(root)
        assert [readers.run(root, target, seed) for seed in target.seeds] == ["taken"] * len(target.seeds), name


def test_what_a_reader_must_not_do_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(root: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(readers, "targets", lambda: {"bad": Target("bytes", (b"x",), "a", readers._nothing, crash)})
    assert "ZeroDivisionError" in next(fuzz("bad", range(1), 0))[1]
