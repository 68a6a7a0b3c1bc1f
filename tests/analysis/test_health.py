# SPDX-License-Identifier: Apache-2.0
"""Effective dilation and offset health against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pliant.analysis import (
    DilationBySize,
    HealthMeter,
    OffsetField,
    effective_dilation,
    offset_health,
    record_offsets,
)
from pliant.nn import DeformConv2d


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)], ids=str)
def test_dilation_of_zero_offsets_is_exactly_the_layers(dilation: int, kernel: tuple[int, int]) -> None:
    layer = DeformConv2d(2, 3, kernel, padding=6, dilation=dilation, offset_groups=2, stride=(1, 2))
    field = record_offsets(layer, torch.rand(1, 2, 15, 18))[0]
    found = effective_dilation(field.cells, kernel)
    assert found.shape == field.cells.shape[:2] + field.cells.shape[3:5]
    assert found.unique().tolist() == [float(dilation)]


def test_dilation_of_a_hand_made_field() -> None:
    # 2 x 3 taps, one cell (y, x):  a(0,0) b(0,4) c(3,4)
    #                               d(6,8) e(0,1) f(3,9)
    taps = torch.tensor([[0, 0], [0, 4], [3, 4], [6, 8], [0, 1], [3, 9]], dtype=torch.float32)
    # rows: ab 4, bc 3, de sqrt(36+49), ef sqrt(9+64); columns: ad 10, be 3, cf 5
    expected = (4 + 3 + math.sqrt(85) + math.sqrt(73) + 10 + 3 + 5) / 7
    assert effective_dilation(taps.reshape(6, 1, 1, 2), (2, 3)).item() == pytest.approx(expected, rel=1e-6)


def made_field(offsets: torch.Tensor, mask: torch.Tensor, limit: float | None) -> OffsetField:
    """A layer of two taps side by side, stride 1, on a map of 4 x 6 cells of 8 x 10 pixels."""
    columns = torch.stack([torch.arange(6.0), torch.arange(6.0) + 1]).reshape(1, 1, 2, 1, 6)
    grid = torch.stack([torch.arange(4.0).reshape(4, 1).expand(1, 1, 2, 4, 6), columns.expand(1, 1, 2, 4, 6)], -1)
    return OffsetField("made", offsets, grid + offsets, mask, (1, 2), (4, 6), (8.0, 10.0), (8.0, 10.0), limit)


def test_dilation_is_counted_by_the_smallest_box_under_the_centre() -> None:
    offsets = torch.zeros(1, 1, 2, 4, 6, 2)
    offsets[0, 0, 1, :, :2, 1] = 3.0  # the two left columns of filters: 4 cells apart
    offsets[0, 0, 1, 0, 5, 0] = 1.0  # one filter above right: sqrt(1 + 1)
    field = made_field(offsets, torch.ones(1, 1, 2, 4, 6), None)
    # Centres are at y = 4, 12, 20, 28 and x = 5, 15, 25, 35, 45, 55. The large box holds the first two columns of all
    # rows; the small one in it the centre of cell (0, 0) alone; the medium one that of (0, 5).
    boxes = torch.tensor([[0.0, 0, 20, 32], [0.0, 0, 6, 5], [54.0, 0, 60, 8]])
    table = DilationBySize()
    table.add([field], boxes, torch.tensor([9216.0, 1023.9, 1024.0]))
    rows = {row.size: row for row in table.rows()}
    assert {size: row.filters for size, row in rows.items()} == {"small": 1, "medium": 1, "large": 7, "background": 15}
    assert (rows["small"].mean, rows["large"].mean, rows["background"].mean) == (4.0, 4.0, 1.0)
    assert rows["medium"].mean == pytest.approx(math.sqrt(2)) and rows["medium"].layer == "made"
    table.add(
        [made_field(torch.zeros(1, 1, 2, 4, 6, 2), torch.ones(1, 1, 2, 4, 6), None)], boxes, torch.full((3,), 9e9)
    )
    large = {row.size: row for row in table.rows()}["large"]
    assert large.filters == 7 + 9 and large.mean == pytest.approx((7 * 4 + 9) / 16)
    assert large.spread == pytest.approx(math.sqrt((7 * 16 + 9) / 16 - large.mean**2))


def test_health_of_a_hand_made_field() -> None:
    offsets = torch.zeros(1, 1, 2, 4, 6, 2)
    offsets[0, 0, 0, 1, 2] = torch.tensor([-1.5, 0.5])
    offsets[0, 0, 1, :, :, 0] = 0.03  # moves, but never by more than 0.05 cells
    mask = torch.full((1, 1, 2, 4, 6), 1.0)
    mask[0, 0, 0, 0, :3], mask[0, 0, 1, 3, :4] = 0.015, 1.985  # within 1 % of 0 and of 2
    (health,) = offset_health([made_field(offsets, mask, 2.0)])
    assert health.mean == pytest.approx((1.5 + 0.5 + 24 * 0.03) / 96)
    total, squares = -1.5 + 0.5 + 24 * 0.03, 1.5**2 + 0.5**2 + 24 * 0.03**2
    assert health.spread == pytest.approx(math.sqrt(squares / 96 - (total / 96) ** 2))
    # Off the map: tap 1 of the last column (4), and tap 1 of the last row, which is 0.03 below it (6, one counted).
    # Tap 0 of cell (1, 2) goes to row -0.5: off the map too.
    assert health.outside == pytest.approx((4 + 6 - 1 + 1) / 48) and health.plain_outside == pytest.approx(4 / 48)
    assert (health.still_taps, health.taps, health.samples) == (1, 2, 48)
    assert health.stuck_low == pytest.approx(3 / 48) and health.stuck_high == pytest.approx(4 / 48)


def test_health_adds_up_over_batches_and_names_unmodulated_layers() -> None:
    meter, ones = HealthMeter(), torch.ones(1, 1, 2, 4, 6)
    still = torch.zeros(1, 1, 2, 4, 6, 2)
    moved = still.clone()
    moved[0, 0, 0, 2, 2, 1] = 0.6
    meter.add([made_field(still, ones, None)])
    assert meter.rows()[0].still_taps == 2
    meter.add([made_field(moved, ones, None)])
    (health,) = meter.rows()
    assert health.still_taps == 1 and health.mean == pytest.approx(0.6 / 192) and health.samples == 96
    assert math.isnan(health.stuck_low) and math.isnan(health.stuck_high)


def test_not_finite_offsets_are_seen() -> None:
    offsets = torch.zeros(1, 1, 2, 4, 6, 2)
    offsets[0, 0, 1, 2, 3, 0] = math.nan
    (health,) = offset_health([made_field(offsets, torch.ones(1, 1, 2, 4, 6), None)])
    assert math.isnan(health.mean) and math.isnan(health.spread)
    assert health.outside == pytest.approx(5 / 48) and health.still_taps == 1


def test_layers_keep_their_order_and_names() -> None:
    network = nn.Sequential(DeformConv2d(3, 4, 3, padding=1), DeformConv2d(4, 4, 1, modulated=False))
    rows = offset_health(record_offsets(network, torch.rand(2, 3, 6, 7)))
    assert [(row.layer, row.taps, row.samples) for row in rows] == [("0", 9, 2 * 9 * 42), ("1", 1, 2 * 42)]
    assert rows[0].stuck_high == 0.0 and math.isnan(rows[1].stuck_high)
