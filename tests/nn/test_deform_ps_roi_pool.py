# SPDX-License-Identifier: Apache-2.0
"""R-FCN's pooling layer; its operator's own values are tested with the operators."""

from __future__ import annotations

import pytest
import torch

from pliant.nn import DeformPSRoIPool

IMAGE = torch.tensor([[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]])[None, None]
REGION = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]])


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        ((0.0, 0.0), [[1.75, 5.0], [8.25, 11.5]]),
        ((1.0, 0.0), [[1.95, 5.8], [8.45, 12.3]]),
        ((0.0, 1.0), [[2.15, 5.4], [9.85, 13.1]]),
    ],
)
def test_offsets_are_x_then_y_in_tenths_of_the_region(bias: tuple[float, float], expected: list[list[float]]) -> None:
    """The official operator's values for one channel, two samples a side and standard deviation 0.1."""
    layer = DeformPSRoIPool(2, in_channels=3, output_channels=1, group_size=1, samples_per_bin=2)
    with torch.no_grad():
        layer.conv_offset.bias.copy_(torch.tensor(bias))
    pooled = layer(IMAGE, torch.randn(1, 3, 4, 4), REGION)
    torch.testing.assert_close(pooled[0, 0], torch.tensor(expected))


def test_each_class_and_position_has_maps_of_its_own() -> None:
    """Only class 1 moves, and only in the bin whose map speaks; two output channels share a class."""
    layer = DeformPSRoIPool(2, in_channels=3, output_channels=4, classes=2, samples_per_bin=2, spatial_scale=0.5)
    assert layer.conv_offset.out_channels == 2 * 2 * 2 * 2
    scores, features = torch.rand(2, 4 * 4, 9, 11), torch.rand(2, 3, 9, 11)
    boxes = torch.tensor([[1, 2.0, 3.0, 14.0, 11.0], [0, 4.0, 1.0, 9.0, 16.0]])
    before = layer(scores, features, boxes)
    with torch.no_grad():
        # Offset channel 2 is class 1's x; its map for the lower left bin is row 1, column 0 of 2x2.
        layer.conv_offset.bias[2 * 4 + 2] = 1.5
    moved = layer(scores, features, boxes) != before
    expected = torch.zeros(2, 4, 2, 2, dtype=torch.bool)
    expected[:, 2:, 1, 0] = True
    assert torch.equal(moved, expected)
    offset = layer.offset(features, boxes)
    torch.testing.assert_close(
        offset, 1.5 * expected[:, [0, 0, 2, 2]].float() * torch.tensor([1.0, 1, 1, 0])[:, None, None]
    )


def test_starts_without_offsets_and_learns_them() -> None:
    layer = DeformPSRoIPool(3, in_channels=6, output_channels=2)
    assert not any(p.any() for p in layer.parameters())
    scores = torch.rand(1, 2 * 9, 12, 13, requires_grad=True)
    pooled = layer(scores, torch.rand(1, 6, 12, 13), torch.tensor([[0, 1.0, 2.0, 9.0, 10.0]]))
    (pooled * torch.randn(1, 2, 3, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-6 for p in layer.parameters())
    assert layer(scores, torch.rand(1, 6, 12, 13), torch.zeros(0, 5)).shape == (0, 2, 3, 3)


def test_messages() -> None:
    with pytest.raises(ValueError, match="classes: must divide output_channels=8; got 3; use 1, or a divisor"):
        DeformPSRoIPool(7, 4, 8, classes=3)
    with pytest.raises(ValueError, match="samples_per_bin: must be at least 1; got 0; use 1 or more"):
        DeformPSRoIPool(7, 4, 8, samples_per_bin=0)
    assert "classes=1, group_size=3" in repr(DeformPSRoIPool(7, 4, 8, classes=1, group_size=3))
