# SPDX-License-Identifier: Apache-2.0
"""The watch over offsets: its numbers by hand, and what counts as running away."""

from __future__ import annotations

import pytest
import torch

from pliant.analysis import LayerOffsets, OffsetWatch
from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool


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


def test_small_maps_have_not_run_away() -> None:
    # On each axis the three taps of two cells are six samples, four of them on the map.
    watch = OffsetWatch(torch.nn.Sequential(DeformConv2d(2, 3, 3, padding=1)))
    with watch.measuring():
        watch.network(torch.rand(1, 2, 2, 2))
    assert watch.layers["0"].outside == watch.layers["0"].plain_outside == pytest.approx(1 - (4 / 6) ** 2)
    assert watch.runaways() == []


def test_taps_on_the_border_of_a_small_map_have_not_run_away() -> None:
    layer = DeformConv2d(2, 3, 3, padding=2, dilation=2)
    torch.nn.init.constant_(layer.conv_offset.bias, 1e-3)
    watch = OffsetWatch(torch.nn.Sequential(layer))
    with watch.measuring():
        watch.network(torch.rand(1, 2, 3, 3))
    measured = watch.layers["0"]
    assert measured.outside - measured.plain_outside > (1 - measured.plain_outside) / 2
    assert watch.runaways() == []


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
        (LayerOffsets(1.0, 2.0, 0.6, plain_outside=0.56), False),
        (LayerOffsets(1.0, 2.0, 0.79, plain_outside=0.56), True),
        (LayerOffsets(float("nan"), 1.0, 0.0), True),
        (LayerOffsets(1.0, float("inf"), 0.0), True),
    ],
)
def test_runaways(offsets: LayerOffsets, ran: bool) -> None:
    assert offsets.ran_away() is ran


def test_bins_are_measured_in_units_of_their_region_by_hand() -> None:
    pool = DeformRoIPool(2, in_channels=3, spatial_scale=0.5, modulated=False)
    with torch.no_grad():
        # Channel 0 is x, channel 1 is y; the shift is a tenth of the region's size for each unit.
        pool.offset_fc[-1].bias.copy_(torch.tensor([[30.0, 0, 0, 0], [0, 0, 0, -1.0]]).flatten())
    watch = OffsetWatch(torch.nn.Sequential(pool))
    boxes = [torch.tensor([[2.0, 4, 10, 8], [0.0, 0, 6, 12]])]
    with watch.measuring():
        pool(torch.rand(1, 3, 6, 8), [torch.zeros(0, 4)])  # without regions: not measured
        pool(torch.rand(1, 3, 6, 8), boxes)
    measured = watch.layers["0"]
    assert measured.mean == pytest.approx((3.0 + 0.1) / 8)
    assert measured.spread == pytest.approx(((9.0 + 0.01) / 8) ** 0.5)
    # The upper left bin of both regions goes three regions to the right: one of four bins is off the map of 12 x 16.
    assert measured.outside == pytest.approx(1 / 4)
    assert not measured.ran_away()
    assert LayerOffsets(2.5, 3.0, 0.1, limit=2.0).ran_away()


def test_bins_of_position_sensitive_pooling_are_measured() -> None:
    pool = DeformPSRoIPool(3, in_channels=4, output_channels=2, spatial_scale=0.25)
    torch.nn.init.constant_(pool.conv_offset.bias, 0.5)  # a twentieth of the region, in every bin of every class
    watch = OffsetWatch(torch.nn.Sequential(pool))
    with watch.measuring():
        pool(torch.rand(1, 18, 8, 9), torch.rand(1, 4, 8, 9), [torch.tensor([[4.0, 6.0, 20.0, 25.0]])])
    assert watch.layers["0"].mean == pytest.approx(0.05)
    assert watch.layers["0"].outside == 0.0


def test_bounded_offsets_are_measured_as_they_are_used() -> None:
    layer = DeformConv2d(2, 3, 3, offset_limit=2.0)
    torch.nn.init.constant_(layer.conv_offset.bias, 100.0)
    watch = OffsetWatch(torch.nn.Sequential(layer))
    with watch.measuring():
        watch.network(torch.rand(1, 2, 5, 6))
    assert watch.layers["0"].mean == pytest.approx(2.0)
