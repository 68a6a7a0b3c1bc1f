# SPDX-License-Identifier: Apache-2.0
"""Composed sampling points against brute force: the gradient of a unit through the stack, computed by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.analysis import OffsetField, record_offsets, sampling_footprint, sampling_points
from pliant.nn import DeformConv2d
from pliant.ops import deform_conv2d


class Stack(nn.Module):
    """Three deformable layers (strides, dilations, groups, rectangular kernels) with a plain one among them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = DeformConv2d(2, 2, (3, 2), stride=(1, 2), padding=(1, 1), offset_groups=2, mask_scale=2.0)
        self.between = nn.Conv2d(2, 2, 1)
        self.plain = nn.Conv2d(2, 2, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.two = DeformConv2d(2, 2, 3, padding=(2, 1), dilation=(2, 1), modulated=False)
        self.three = DeformConv2d(2, 2, (1, 3), padding=(0, 1))
        for layer in (self.one, self.two, self.three):
            nn.init.normal_(layer.conv_offset.weight, std=0.4)
            nn.init.normal_(layer.conv_offset.bias, std=1.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.three(self.two(self.plain(self.between(self.one(images)).relu())))


ORDER = ["three", "two", "plain", "one"]


def gradient_with_fixed_offsets(network: Stack, image: Tensor, cell: tuple[int, int]) -> Tensor:
    """The gradient of a unit by the pixels when every weight is 1 and offsets and masks are those of `image`."""
    kept: dict[str, tuple[Tensor, Tensor | None]] = {}
    x = image
    with torch.no_grad():
        for name, layer in network.named_children():
            if isinstance(layer, DeformConv2d):
                kept[name] = layer.offset_and_mask(x)
            x = layer(x)
            x = x.relu() if name == "between" else x
    pixels = torch.zeros(1, 1, *image.shape[2:], dtype=torch.float64, requires_grad=True)
    y: Tensor = pixels
    for name, layer in network.named_children():
        if isinstance(layer, DeformConv2d):
            offset, mask = (None if t is None else t.double() for t in kept[name])
            assert offset is not None
            groups = layer.offset_groups  # every group reads the same map: they become channels, which are then summed
            weight = torch.ones(1, groups, *layer.kernel_size, dtype=torch.float64)
            geometry: Any = (layer.stride, layer.padding, layer.dilation)
            y = deform_conv2d(y.expand(-1, groups, -1, -1), offset, weight, None, *geometry, mask, impl="reference")
        elif name == "plain":
            weight = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
            y = nn.functional.conv2d(y, weight, None, layer.stride, layer.padding, layer.dilation)
    (gradient,) = torch.autograd.grad(y[0, 0, cell[0], cell[1]], pixels)
    return gradient[0, 0]


@pytest.mark.parametrize("cell", [(0, 0), (2, 5), (5, 7), (4, 0)], ids=str)
def test_a_pixel_has_gradient_exactly_where_the_composed_points_say(cell: tuple[int, int]) -> None:
    torch.manual_seed(3)  # offsets that leave each of the cells much to sample
    network, image = Stack(), torch.rand(1, 2, 11, 23)
    fields = record_offsets(network, image, layers=ORDER)
    by_name = {field.layer: field for field in fields}
    stack = [by_name[name] for name in ORDER]
    stride = stack[0].output_stride
    point = ((cell[0] + 0.5) * stride[0] - 0.5, (cell[1] + 0.5) * stride[1] - 0.5)
    expected = gradient_with_fixed_offsets(network, image, cell)
    footprint = sampling_footprint(stack, point).double()
    assert footprint.shape == (11, 23)
    assert (expected > 0).sum() > 20  # something is tested
    torch.testing.assert_close(footprint, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(footprint > 1e-7, expected > 1e-7)
    # Every way on its own gives the same as ways merged on the maps between.
    ways, merged = (sampling_points(stack, point, merge=merge) for merge in (False, True))
    assert len(ways) > len(merged)
    torch.testing.assert_close(ways[:, 2].sum(), merged[:, 2].sum(), rtol=1e-4, atol=1e-4)


def test_a_pixel_moved_by_a_composed_point_only_changes_the_unit_where_the_point_is() -> None:
    """Through the real network, with offsets that are constants: no pixel outside the points' cells has a gradient."""
    network, image = Stack(), torch.rand(1, 2, 11, 23)
    for layer in (network.one, network.two, network.three):
        nn.init.zeros_(layer.conv_offset.weight)  # offsets are constants: the total gradient is that of the samples
    image.requires_grad_()
    output = network(image)
    (gradient,) = torch.autograd.grad(output[0, :, 3, 4].square().sum(), image)
    by_name = {field.layer: field for field in record_offsets(network, image.detach(), layers=ORDER)}
    stack = [by_name[name] for name in ORDER]
    stride = stack[0].output_stride
    footprint = sampling_footprint(stack, ((3.5) * stride[0] - 0.5, 4.5 * stride[1] - 0.5))
    assert not ((gradient[0].abs().sum(0) > 0) & (footprint == 0)).any()


def zero_offset_stack(layers: int, size: int) -> list[OffsetField]:
    network = nn.Sequential(*(DeformConv2d(1, 1, 3, padding=1, modulated=False) for _ in range(layers)))
    return record_offsets(network, torch.rand(1, 1, size, size + 2))[::-1]


def test_three_layers_of_nine_taps_have_729_ways_whose_weights_are_one() -> None:
    ways = sampling_points(zero_offset_stack(3, 9), (4.0, 5.0), merge=False)
    assert len(ways) == 729
    assert ways[:, 2].unique().tolist() == [1.0]
    # The middle pixel is reached in 7 * 7 of the ways, a corner of the 7 x 7 square in one.
    assert int(((ways[:, 0] == 4) & (ways[:, 1] == 5)).sum()) == 49
    assert int(((ways[:, 0] == 1) & (ways[:, 1] == 2)).sum()) == 1
    merged = sampling_points(zero_offset_stack(3, 9), (4.0, 5.0))
    assert len(merged) == 25 * 9 and merged[:, 2].sum().item() == 729


def test_weights_of_fractional_positions_sum_to_729_too() -> None:
    fields = zero_offset_stack(3, 15)
    shift = torch.tensor([0.3, -0.45])
    moved = [
        OffsetField(
            field.layer, field.offsets + shift, field.cells + shift, field.mask, (3, 3), (15, 17), (1, 1), (1, 1)
        )
        for field in fields
    ]
    points = sampling_points(moved, (7.0, 8.0))
    assert points[:, 2].sum().item() == pytest.approx(729, rel=1e-5)
    # All three layers move by (0.3, -0.45): the weighted mean of the points is three times that away from the unit.
    mean = (points[:, :2] * points[:, 2:]).sum(0) / points[:, 2].sum()
    assert mean.tolist() == pytest.approx([7.9, 6.65], abs=1e-4)


def test_taps_that_leave_the_map_are_not_followed() -> None:
    """At the corner, of two 3x3 layers: 4 cells of the map between are on it, of 9."""
    points = sampling_points(zero_offset_stack(2, 5), (0.0, 0.0), merge=False)
    assert len(points) == 4 * 9
    assert sampling_footprint(zero_offset_stack(2, 5), (0.0, 0.0)).sum().item() == (2 + 3) ** 2


def test_modulation_multiplies_along_the_way_and_groups_follow_one_another() -> None:
    network = nn.Sequential(DeformConv2d(2, 2, 1, offset_groups=2), DeformConv2d(2, 2, 1, mask_scale=2.0))
    with torch.no_grad():
        network[0].conv_offset.bias[4:] = torch.tensor([0.2, 0.6]).logit()
        network[1].conv_offset.bias[2:] = torch.tensor(0.35).logit()
    first, second = record_offsets(network, torch.rand(1, 2, 3, 4))
    points = sampling_points([second, first], (1.0, 2.0))
    assert points[:, 2].tolist() == pytest.approx([2 * 0.35 * 0.2, 2 * 0.35 * 0.6], rel=1e-5)


def test_maps_of_another_size_are_scaled_by_their_strides() -> None:
    """A layer on a map of stride 4 above one on a map of stride 2: the centre of a cell is between four."""
    fine, coarse = DeformConv2d(1, 1, 1, modulated=False), DeformConv2d(1, 1, 1, modulated=False)
    image = torch.rand(1, 1, 16, 24)
    network = nn.Sequential(nn.AvgPool2d(2), fine, nn.AvgPool2d(2), coarse)
    below, above = record_offsets(network, image)
    points = sampling_points([above, below], (5.0, 9.0))  # cell (1, 2) of stride 4; pixels 4-7, 8-11
    assert sorted(points.tolist()) == [[y, x, 0.25] for y in (4.5, 6.5) for x in (8.5, 10.5)]


def test_not_finite_offsets_lead_nowhere() -> None:
    fields = zero_offset_stack(2, 6)
    fields[0].cells[0, 0, 4] = float("nan")
    fields[0].cells[0, 0, 5, :, :, 0] = float("inf")
    assert len(sampling_points(fields, (3.0, 3.0), merge=False)) == 7 * 9


def test_a_stack_without_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="fields: must name one layer at least; got none"):
        sampling_points([], (0.0, 0.0))


def test_layers_to_record_are_checked_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"layers: must name layers of the network; got 'plane'; .* Did you mean 'plain'"
    ):
        record_offsets(Stack(), torch.rand(1, 2, 11, 23), layers=["plane"])
    with pytest.raises(ValueError, match="layers: must be one of DeformConv2d, Conv2d, MaxPool2d, AvgPool2d; got '', "):
        record_offsets(Stack(), torch.rand(1, 2, 11, 23), layers=[""])


def test_hooks_come_off_when_the_network_raises() -> None:
    network = Stack()
    with pytest.raises(RuntimeError):
        record_offsets(network, torch.rand(1, 3, 11, 23), layers=ORDER)  # three channels where it has two
    assert all(not module._forward_hooks for module in network.modules())
