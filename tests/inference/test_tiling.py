# SPDX-License-Identifier: Apache-2.0
"""Tiles cover a photograph with the overlap that was asked for, and their boxes become those of the photograph."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pliant.inference import join_tiles, tiles


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 120), st.data())
def test_windows_cover_the_photograph_and_share_the_overlap(
    height: int, width: int, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    windows = tiles(height, width, size, overlap)
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in windows} == {(min(size, width), min(size, height))}
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(window[low], window[high]) for window in windows})
        assert (spans[0][0], spans[-1][1]) == (0, length)
        assert all(a[1] - b[0] >= overlap for a, b in itertools.pairwise(spans))
        if length > size:  # no window too many: one less could not reach
            assert (len(spans) - 1) * size - (len(spans) - 2) * overlap < length


def test_windows_worked_by_hand() -> None:
    assert tiles(5, 14, size=6, overlap=2) == [(0, 0, 6, 5), (4, 0, 10, 5), (8, 0, 14, 5)]
    assert tiles(7, 6, size=6, overlap=0) == [(0, 0, 6, 6), (0, 1, 6, 7)]


def output(rows: list[tuple[list[float], float, int]]) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([row[1] for row in rows]),
        "labels": torch.tensor([row[2] for row in rows], dtype=torch.int64),
    }


def test_boxes_are_moved_to_the_photograph_and_cut_ones_left_to_the_neighbour() -> None:
    windows = [(0, 0, 60, 50), (40, 0, 100, 50)]  # they share 20 pixels
    whole, cut_off = [42, 10, 57, 30], [51, 5, 59, 12]  # the second ends a pixel from the border, and is 8 wide
    long, at_the_photo = [30, 1, 60, 9], [5, 40, 9, 50]  # longer than what is shared; at the photograph's own border
    left = output([(box, 0.8, 1) for box in (whole, cut_off, long, at_the_photo)])
    right = output([([3, 10, 18, 31], 0.9, 1), ([0, 20, 4, 25], 0.7, 2), ([52, 3, 60, 9], 0.6, 2)])
    found, window = join_tiles([left, right], windows, overlap=20)
    assert found["boxes"].tolist() == [whole, long, at_the_photo, [43, 10, 58, 31], [92, 3, 100, 9]]
    assert found["labels"].tolist() == [1, 1, 1, 1, 2]
    assert found["scores"].tolist() == pytest.approx([0.8, 0.8, 0.8, 0.9, 0.6])
    assert window.tolist() == [0, 0, 0, 1, 1]
    assert tuple(join_tiles([output([]), output([])], windows, 20)[0]["boxes"].shape) == (0, 4)


def test_windows_above_one_another_leave_cut_boxes_to_their_neighbour() -> None:
    windows = [(0, 0, 50, 60), (0, 40, 50, 100)]
    above, below = output([([10, 52, 20, 60], 0.5, 1)]), output([([10, 12, 20, 24], 0.6, 1), ([3, 0, 9, 5], 0.7, 1)])
    found, window = join_tiles([above, below], windows, overlap=20)
    assert found["boxes"].tolist() == [[10, 52, 20, 64]]
    assert window.tolist() == [1]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap: must be from 0 to 5; got 6; use a quarter"):
        tiles(9, 9, 6, 6)
    with pytest.raises(ValueError, match=r"tiles: height, width and size must be positive; got \(0, 9, 6\)"):
        tiles(0, 9, 6, 1)
    with pytest.raises(ValueError, match="outputs: must be one for each window; got 1 for 2"):
        join_tiles([output([])], tiles(6, 9, 6, 0), 1)
