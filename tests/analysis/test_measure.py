# SPDX-License-Identifier: Apache-2.0
"""The watch over offsets: its numbers by hand, and what counts as running away."""

from __future__ import annotations

import pytest
import torch

from pliant.analysis import LayerOffsets, OffsetWatch
from pliant.nn import DeformConv2d

# Without the compiled library the reference serves, and says so once.
pytestmark = pytest.mark.filterwarnings("ignore:.*slow reference implementation:RuntimeWarning")


def test_mean_spread_and_share_outside_by_hand() -> None:
    layer = DeformConv2d(2, 3, (1, 2), padding=0)
    with torch.no_grad():
        layer.conv_offset.bias[:4] = torch.tensor([0.0, -3.0, 4.0, 1.0])  # tap 0: dx = -3; tap 1: dy = 4, dx = 1
    watch = OffsetWatch(torch.nn.Sequential(layer))
    with watch.measuring():
        watch.network(torch.rand(1, 2, 5, 6))
    measured = watch.layers["0"]
    assert measured.mean == pytest.approx((0 + 3 + 4 + 1) / 4)
    assert measured.spread == pytest.approx(((0 + 9 + 16 + 1) / 4) ** 0.5)
    # Output 5 x 5. Tap 0 reads column c - 3: columns 0..2 are outside, 15 of 25. Tap 1 reads row r + 4 (only row 0 is
    # inside) and column c + 2 (c = 0..3 are inside): 21 of 25 outside.
    assert measured.outside == pytest.approx((15 + 21) / 50)


def test_the_first_call_in_each_context_counts() -> None:
    layer = DeformConv2d(2, 3, 3)
    watch = OffsetWatch(torch.nn.Sequential(layer))
    for size in (2.0, 7.0):
        torch.nn.init.constant_(layer.conv_offset.bias, size)
        with watch.measuring():
            watch.network(torch.rand(1, 2, 5, 6))
            torch.nn.init.constant_(layer.conv_offset.bias, 99.0)
            watch.network(torch.rand(1, 2, 5, 6))
        assert watch.layers["0"].mean == pytest.approx(size)


def test_nothing_is_measured_outside_the_context() -> None:
    watch = OffsetWatch(DeformConv2d(2, 3, 3))
    watch.network(torch.rand(1, 2, 5, 6))
    assert watch.layers == {}


@pytest.mark.parametrize(
    ("offsets", "ran"),
    [
        (LayerOffsets(1.0, 2.0, 0.1), False),
        (LayerOffsets(33.0, 40.0, 0.1), True),
        (LayerOffsets(5.0, 6.0, 0.6), True),
        (LayerOffsets(float("nan"), 1.0, 0.0), True),
        (LayerOffsets(1.0, float("inf"), 0.0), True),
    ],
)
def test_runaways(offsets: LayerOffsets, ran: bool) -> None:
    assert offsets.ran_away() is ran
