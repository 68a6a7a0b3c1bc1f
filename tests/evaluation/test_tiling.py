# SPDX-License-Identifier: Apache-2.0
"""Tiles cover a photograph with the overlap that was asked for, and their detections become one set."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pliant.evaluation import merge_tiles, tiles


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


def test_an_object_seen_in_two_tiles_is_one_detection() -> None:
    windows = [(0, 0, 60, 50), (40, 0, 100, 50)]
    left = output([([42, 10, 58, 30], 0.8, 1), ([5, 5, 9, 12], 0.3, 1)])
    right = output([([3, 10, 18, 31], 0.9, 1), ([3, 10, 18, 31], 0.7, 2)])
    merged = merge_tiles([left, right], windows)
    assert merged["boxes"].tolist() == [[43, 10, 58, 31], [43, 10, 58, 31], [5, 5, 9, 12]]
    assert merged["labels"].tolist() == [1, 2, 1]
    assert merged["scores"].tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert len(merge_tiles([left, right], windows, iou_threshold=0.95)["scores"]) == 4
    assert merge_tiles([left, right], windows, max_detections=1)["scores"].tolist() == pytest.approx([0.9])
    assert tuple(merge_tiles([output([]), output([])], windows)["boxes"].shape) == (0, 4)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap: must be from 0 to 5; got 6; use a quarter"):
        tiles(9, 9, 6, 6)
    with pytest.raises(ValueError, match=r"tiles: height, width and size must be positive; got \(0, 9, 6\)"):
        tiles(0, 9, 6, 1)
    with pytest.raises(ValueError, match="outputs: must be one for each window; got 1 for 2"):
        merge_tiles([output([])], tiles(6, 9, 6, 0))
