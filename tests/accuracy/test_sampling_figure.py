# SPDX-License-Identifier: Apache-2.0
"""The README's picture of sampling points: which trees are shown, and that it is drawn from what is committed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import sampling_figure  # noqa: E402


def test_trees_are_chosen_by_score_and_size_from_those_well_inside() -> None:
    found = [
        {"bbox": [100.0, 60.0, 20.0, 10.0], "score": 0.7},
        {"bbox": [90.0, 70.0, 11.0, 31.0], "score": 0.9},
        {"bbox": [80.0, 80.0, 4.0, 5.0], "score": 0.5},
        {"bbox": [0.0, 0.0, 90.0, 90.0], "score": 0.99},  # its middle, (44.5, 44.5), is nearer than 48 to the edges
        {"bbox": [70.0, 70.0, 60.0, 60.0], "score": 0.49},  # not sure
    ]
    assert sampling_figure.chosen(found, height=150, width=200) == {
        "surest": (85.0, 95.0),
        "largest": (85.0, 95.0),
        "smallest": (82.0, 81.5),
    }


def test_the_picture_is_small_and_drawn_from_the_committed_points(tmp_path: Path) -> None:
    sampling_figure.draw(tmp_path / "x" / "picture.svg")
    drawn = (tmp_path / "x" / "picture.svg").read_text(encoding="utf-8")
    assert len(drawn) < 150_000
    assert drawn.count("<image") == 3
    assert all(f">{text}<" in drawn for text in ("plain convolution", "deformable convolution", "smallest tree found"))
