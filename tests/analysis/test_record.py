# SPDX-License-Identifier: Apache-2.0
"""Sampling positions against numbers worked by hand: unequal strides, paddings, dilations, kernels and map sides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pliant._geometry import ConvGeometry
from pliant.analysis import cell_centre, nearest_cell, record_offsets, sampling_points, sampling_positions
from pliant.nn import DeformConv2d

GEOMETRY = ConvGeometry(stride=(2, 3), padding=(1, 2), dilation=(4, 5))


def test_positions_of_every_tap_at_one_cell() -> None:
    offset = torch.zeros(1, 2 * 6, 5, 7)
    positions = sampling_positions(offset, (2, 3), GEOMETRY)
    assert positions.shape == (1, 1, 6, 5, 7, 2)
    # Cell (3, 4): its first tap at (3*2 - 1, 4*3 - 2) = (5, 10); rows 4 apart, columns 5 apart, taps row by row.
    expected = [[5, 10], [5, 15], [5, 20], [9, 10], [9, 15], [9, 20]]
    assert positions[0, 0, :, 3, 4].tolist() == expected


def test_offsets_are_dy_dx_interleaved_with_groups_outermost() -> None:
    groups, taps = 2, 6
    # Channel c holds c everywhere: group g, tap k must read dy = 12 g + 2 k and dx = 12 g + 2 k + 1.
    offset = torch.arange(2 * groups * taps, dtype=torch.float32).reshape(1, -1, 1, 1).expand(1, -1, 5, 7)
    moved = sampling_positions(offset, (2, 3), GEOMETRY) - sampling_positions(
        torch.zeros_like(offset), (2, 3), GEOMETRY
    )
    assert moved[0, 0, 4, 2, 6].tolist() == [8, 9]
    assert moved[0, 1, 5, 0, 1].tolist() == [22, 23]


def test_cell_centres_and_cells_are_inverse_and_follow_the_convention() -> None:
    stride = (8.0, 4.0)
    # Cell 0 of width 8 covers pixels 0..7, whose centre is 3.5; cell 5 of width 4 covers 20..23: 21.5.
    assert cell_centre(torch.tensor([0.0, 5.0]), stride).tolist() == [3.5, 21.5]
    assert nearest_cell(torch.tensor([[7.0, 19.0], [8.0, 20.0], [-1.0, 23.4]]), stride).tolist() == [
        [0, 4],
        [1, 5],
        [-1, 5],
    ]


class Network(nn.Module):
    """A plain convolution of stride (2, 2), then two deformable ones; 24 x 40 images to 12 x 20, 6 x 20, 6 x 20."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.first = DeformConv2d(4, 4, (3, 1), stride=(2, 1), padding=(1, 0), offset_groups=2, mask_scale=2.0)
        self.second = DeformConv2d(4, 5, 3, padding=(2, 1), dilation=(2, 1), modulated=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.stem(images)))


def test_record_gives_image_pixels_strides_and_masks() -> None:
    network = Network()
    with torch.no_grad():
        bias = network.first.conv_offset.bias
        bias[:12] = torch.tensor([0, 0, 0, 0, 0, 0, 1.0, -0.5, 0, 0, 0, 0])  # group 1, tap 0: dy = 1, dx = -0.5
        bias[12:] = torch.tensor([0, 0, 0, 0, 30.0, 0])  # group 1, tap 1: sigmoid near 1, times 2
    first, second = record_offsets(network, torch.rand(2, 3, 24, 40))
    assert (first.layer, second.layer) == ("first", "second")
    assert first.positions.shape == (2, 2, 3, 6, 20, 2)
    # Input cells of `first` are 2 x 2 pixels. Output cell (4, 7), tap 0: row 4*2 - 1 + 1 = 8 -> 8.5*2 - 0.5 = 16.5,
    # column 7 - 0.5 = 6.5 -> 7*2 - 0.5 = 13.5.
    assert first.positions[1, 1, 0, 4, 7].tolist() == [16.5, 13.5]
    assert first.offsets[1, 1, 0, 4, 7].tolist() == [1.0, -0.5]
    assert first.output_stride == (4.0, 2.0)
    assert first.mask[0, :, :, 4, 7].tolist() == [[1.0, 1.0, 1.0], [1.0, 2.0, 1.0]]
    assert second.output_stride == (4.0, 2.0)
    assert second.mask.unique().tolist() == [1.0]
    assert all(not m._forward_hooks for m in network.modules())


def test_share_of_samples_outside_is_counted_per_sample() -> None:
    _, second = record_offsets(Network(), torch.rand(1, 3, 24, 40))
    # 3x3, padding (2, 1), dilation (2, 1) on 6 x 20: of 6*20 cells, the outer taps of the two first and last rows
    # (rows -2, -1 and 6, 7) and of the first and last column fall outside.
    rows = torch.tensor([[r - 2 + 2 * k for k in range(3)] for r in range(6)])
    columns = torch.tensor([[c - 1 + k for k in range(3)] for c in range(20)])
    inside = ((rows >= 0) & (rows <= 5)).sum() * ((columns >= 0) & (columns <= 19)).sum()
    assert inside == 14 * 58
    assert second.outside == pytest.approx(1 - 14 * 58 / (6 * 20 * 9), abs=1e-6)


def test_stacked_layers_sample_the_product_of_their_taps() -> None:
    network = Network()
    with torch.no_grad():
        network.second.conv_offset.bias.copy_(torch.tensor([0.0, 3.0]).repeat(9))  # dx = 3 cells for every tap
    first, second = record_offsets(network, torch.rand(1, 3, 24, 40))
    one = sampling_points([second], (10.0, 16.0))
    # Cell (2, 8) of 4 x 2 pixels: rows 0, 2, 4 -> 1.5, 9.5, 17.5; columns 7 + 3 .. 9 + 3 -> 20.5, 22.5, 24.5.
    assert one[:, 0].unique().tolist() == [1.5, 9.5, 17.5]
    assert one[:, 1].unique().tolist() == [20.5, 22.5, 24.5]
    both = sampling_points([second, first], (10.0, 16.0))
    # Nine samples of `second`, each followed into 2 groups of 3 taps of `first` in rows 2r-1 .. 2r+1 of 2-pixel cells.
    assert both.shape == (9 * 6, 3)
    assert both[:, 0].unique().tolist() == [-1.5, 0.5, 2.5, 6.5, 8.5, 10.5, 14.5, 16.5, 18.5]
    assert both[:, 1].unique().tolist() == [20.5, 22.5, 24.5]


def test_samples_outside_the_lower_map_are_dropped() -> None:
    network = Network()
    with torch.no_grad():
        network.second.conv_offset.bias.copy_(torch.tensor([0.0, 100.0]).repeat(9))
    first, second = record_offsets(network, torch.rand(1, 3, 24, 40))
    assert len(sampling_points([second], (10.0, 16.0))) == 9
    assert len(sampling_points([second, first], (10.0, 16.0))) == 0


def test_a_point_outside_the_image_is_refused() -> None:
    fields = record_offsets(Network(), torch.rand(1, 3, 24, 40))
    with pytest.raises(ValueError, match=r"point: must lie on the layer's map of \(6, 20\) cells; got \(24.0, 3.0\)"):
        sampling_points(fields[-1:], (24.0, 3.0))


def test_a_network_without_deformable_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="network: must have deformable layers .*; got Conv2d; convert some"):
        record_offsets(nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8))
