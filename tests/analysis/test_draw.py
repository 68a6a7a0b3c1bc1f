# SPDX-License-Identifier: Apache-2.0
"""Pictures: what is drawn lands on the pixels it is about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pliant.analysis import draw_boxes, draw_curves, draw_detections, draw_labels, draw_ranking, draw_sampling
from pliant.analysis.fonts import legible
from pliant.data import read_image


def _red_centre(path: Path) -> tuple[float, float]:
    """The centre of the pure red pixels, as shares of the picture's height and width."""
    picture = read_image(path).int()
    red = (picture[0] > 200) & (picture[1] < 60) & (picture[2] < 60)
    rows, columns = red.nonzero(as_tuple=True)
    return rows.float().mean().item() / picture.shape[1], columns.float().mean().item() / picture.shape[2]


def test_sampling_points_are_drawn_at_row_and_column(tmp_path: Path) -> None:
    points = torch.tensor([[20.0, 150.0, 1.0]])
    draw_sampling(torch.zeros(3, 100, 200, dtype=torch.uint8), points, (50.0, 100.0), tmp_path / "p.png")
    row, column = _red_centre(tmp_path / "p.png")
    # The legend holds a red dot too, at the top right: the mean lies between, so compare loosely but by quadrant.
    assert row < 0.4
    assert 0.65 < column < 0.95


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    box = torch.tensor([[20.0, 60.0, 60.0, 80.0]])
    draw_boxes(torch.zeros(3, 100, 200, dtype=torch.uint8), box, tmp_path / "b.png")
    picture = read_image(tmp_path / "b.png").int()
    orange = (picture[0] > 200) & (picture[1] > 90) & (picture[2] < 60)
    rows, columns = orange.nonzero(as_tuple=True)
    assert rows.float().mean() / picture.shape[1] > 0.5
    assert columns.float().mean() / picture.shape[2] < 0.5


def test_curves_pass_over_records_without_the_value(tmp_path: Path) -> None:
    records = [{"step": 1, "loss": 2.0}, {"step": 1, "ap": 0.1}, {"step": 2, "loss": 1.0}]
    draw_curves({"run": records, "empty": []}, tmp_path / "c.png")
    picture = read_image(tmp_path / "c.png")
    assert picture.shape == (3, 600, 960)
    assert len(picture.flatten(1).unique(dim=1)[0]) > 10  # axes and a coloured line, not one blank colour


def test_names_in_pictures_have_no_empty_boxes_and_start_no_formula(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image, boxes = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.tensor([[4.0, 5.0, 20.0, 15.0]])
    for name in ("树", "\U000f0000", "$\\frac$", "$x$", "a\x1b\nb", "_hidden"):
        draw_detections(image, boxes, [1], tmp_path / "a.png", names={1: name})
        draw_labels(image, torch.ones(20, 30, dtype=torch.uint8), tmp_path / "b.png", names={1: name})
        draw_ranking(image, [1, 2], [0.7, 0.2], tmp_path / "c.png", names={1: name, 2: "oak"})
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []
    assert legible("oak 树 $\x00").startswith("oak ")
    assert legible("\U000f0000") == r"\U000f0000"
