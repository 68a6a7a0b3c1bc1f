# SPDX-License-Identifier: Apache-2.0
"""Numbers worked out by hand, or published by another implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from helpers.convolution.cases import Arguments
from helpers.convolution.checks import Implementation, run


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


COLUMN = tensor([10.0, 20.0, 30.0])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("position", "value", "slope"),
    [  # the value is bilinear on a column padded with zeros; the slope is the one to the right of the position
        (-1.5, 0, 0), (-1, 0, 10), (-0.5, 5, 10), (0, 10, 10), (0.25, 12.5, 10), (1.5, 25, 10), (2, 30, -30),
        (2.5, 15, -30), (2.75, 7.5, -30), (3, 0, 0), (3.5, 0, 0), (float("nan"), 0, 0), (float("inf"), 0, 0),
        (-float("inf"), 0, 0), (1e30, 0, 0), (-1e30, 0, 0), (2.0**31, 0, 0), (-(2.0**63), 0, 0), (1e-310, 10, 10),
    ],
)  # fmt: skip
def test_a_column_of_three(
    implementation: Implementation, axis: int, position: float, value: float, slope: float
) -> None:
    """One sample on [10, 20, 30], along each axis: value, slope, and what flows back to mask and pixels."""
    image = COLUMN.view((1, 1, 3, 1) if axis == 0 else (1, 1, 1, 3))
    offset = torch.zeros(1, 2, *image.shape[2:], dtype=torch.float64)
    offset[0, axis, 0, 0] = position
    grad = torch.zeros_like(image)
    grad[0, 0, 0, 0] = 1.0
    mask, weight = torch.full_like(image, 0.25), tensor([[[[3.0]]]])
    arguments = Arguments(image, offset, weight, None, (1, 1), (0, 0), (1, 1), mask)
    output, gradients = run(implementation, arguments, grad)
    assert output.flatten().tolist() == [0.75 * value, 15.0, 22.5]
    assert gradients["offset"][0, axis].flatten()[0].item() == pytest.approx(0.75 * slope)
    assert gradients["mask"].flatten()[0].item() == pytest.approx(3 * value)
    assert gradients["weight"].item() == pytest.approx(0.25 * value)
    assert (gradients["input"] * image).sum().item() == pytest.approx(0.75 * value)
    assert not gradients["offset"][0, axis].flatten()[1:].any(), "the other outputs had no upstream gradient"


def test_mmcv_v1_output_tells_the_two_boundary_rules_apart(implementation: Implementation) -> None:
    """mmcv's test_deform_conv.py. The boundary rule of the first official operator would give 3.448 for 1.65."""
    image = tensor([[[[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [3.0, 5.0, 2.0]]]])
    offset_weight = tensor(
        [[0.1, 0.4, 0.6, 0.1], [0.3, 0.2, 0.1, 0.3], [0.5, 0.5, 0.2, 0.8], [0.8, 0.3, 0.9, 0.1],
         [0.3, 0.1, 0.2, 0.5], [0.3, 0.7, 0.5, 0.3], [0.6, 0.2, 0.5, 0.3], [0.4, 0.1, 0.8, 0.4]]
    ).view(8, 1, 2, 2)  # fmt: skip
    offset_bias = tensor([0.7, 0.1, 0.8, 0.5, 0.6, 0.5, 0.4, 0.7])
    weight = tensor([[[[0.4, 0.2], [0.1, 0.9]]]]).requires_grad_()
    leaf, w, b = (t.clone().requires_grad_() for t in (image, offset_weight, offset_bias))
    output = implementation(leaf, conv2d(leaf, w, b), weight)
    torch.testing.assert_close(output.detach(), tensor([[[[1.65, 0.0], [0.0, 0.0]]]]), rtol=0, atol=1e-12)
    found = torch.autograd.grad(output.sum(), [leaf, w, b, weight])
    published = (
        [[[[-0.666, 0.204, 0.000], [0.030, -0.416, 0.012], [0.000, 0.252, 0.129]]]],
        [[[[1.44, 2.88], [0.00, 1.44]]], [[[-0.72, -1.44], [0.00, -0.72]]], [[[0.0, 0.0], [0.0, 0.0]]],
         [[[0.0, 0.0], [0.0, 0.0]]], [[[-0.10, -0.20], [0.00, -0.10]]], [[[-0.08, -0.16], [0.00, -0.08]]],
         [[[-0.54, -1.08], [0.00, -0.54]]], [[[-0.54, -1.08], [0.00, -0.54]]]],
        [1.44, -0.72, 0.0, 0.0, -0.10, -0.08, -0.54, -0.54],
        [[[[3.62, 0.0], [0.40, 0.18]]]],
    )  # fmt: skip
    for actual, expected in zip(found, published, strict=True):
        torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=1e-3)


@pytest.fixture
def ramp() -> Arguments:
    """mmcv's test_modulated_deform_conv.py: rows [1, 2, 3], 2x2 kernel of ones, padding 1, zero offsets, masks 1/2."""
    image = tensor([[[[1.0, 2.0, 3.0]] * 3]])
    offset, mask = torch.zeros(1, 8, 4, 4, dtype=torch.float64), torch.full((1, 4, 4, 4), 0.5, dtype=torch.float64)
    return Arguments(image, offset, torch.ones(1, 1, 2, 2, dtype=torch.float64), None, (1, 1), (1, 1), (1, 1), mask)


def test_mmcv_v2_output_and_gradients(implementation: Implementation, ramp: Arguments) -> None:
    output, gradients = run(implementation, ramp, torch.ones(1, 1, 4, 4, dtype=torch.float64))
    edge, middle = [0.5, 1.5, 2.5, 1.5], [1.0, 3.0, 5.0, 3.0]
    assert output[0, 0].tolist() == [edge, middle, middle, edge]
    assert gradients["input"][0, 0].tolist() == [[2.0] * 3] * 3
    assert gradients["weight"].flatten().tolist() == [9.0] * 4
    assert (
        gradients["mask"].sum((0, 2, 3)).tolist() == [18.0] * 4
    )  # mmcv's 4.5 is this times the sigmoid's slope of 1/4


def test_offset_gradients_on_pixels_are_the_right_hand_slopes(implementation: Implementation, ramp: Arguments) -> None:
    """Every tap stands on a pixel or exactly on -1, as in each layer's first step.

    mmcv publishes [-3, -1.5, -3, -1.5, -3, -1.5, -3, -1.5] for the sums below, since it gives a point on -1 no slope.
    To the right of -1 the image rises from 0 to its first pixel, and that slope cancels the fall behind the last one.
    """
    _, gradients = run(implementation, ramp, torch.ones(1, 1, 4, 4, dtype=torch.float64))
    offset = gradients["offset"][0]
    assert offset.sum((1, 2)).tolist() == [0, 0, 0, -1.5, -3, 0, -3, -1.5]
    rows = [0.5, 1.0, 1.5]  # half the image's row: what a row gains from -1 to 0 and loses from 2 to 3
    assert offset[0].tolist() == [[0, *rows], [0] * 4, [0] * 4, [0, *(-r for r in rows)]], "dy of tap (0, 0)"
    assert offset[4].tolist() == [[0] * 4, [0] * 4, [0, *(-r for r in rows)], [0] * 4], "dy of tap (1, 0)"
    columns = [0.5, 0.5, -1.5, 0.0]  # half of 2-1, 3-2, 0-3, and nothing from 3 on
    assert offset[3].tolist() == [[0] * 4, columns, columns, columns], "dx of tap (0, 1)"


def test_one_tap_with_nan_does_not_spoil_the_others(implementation: Implementation, ramp: Arguments) -> None:
    offset = ramp.offset.clone()
    offset[0, 2 * 3 + 1, 1, 1] = torch.nan  # dx of tap (1, 1), whose sample is x[1, 1] = 2
    clean, clean_gradients = run(implementation, ramp, torch.ones(1, 1, 4, 4, dtype=torch.float64))
    output, gradients = run(implementation, ramp._replace(offset=offset), torch.ones(1, 1, 4, 4, dtype=torch.float64))
    difference = torch.zeros_like(clean)
    difference[0, 0, 1, 1] = 0.5 * 2
    torch.testing.assert_close(clean - output, difference, rtol=0, atol=0)
    pixels = torch.zeros(3, 3, dtype=torch.float64)
    pixels[1, 1] = 0.5
    torch.testing.assert_close((clean_gradients["input"] - gradients["input"])[0, 0], pixels, rtol=0, atol=0)
    assert gradients["mask"][0, 3, 1, 1] == 0
    assert gradients["offset"][0, 6:, 1, 1].tolist() == [0, 0]
    untouched = torch.ones(4, 4, dtype=torch.bool)
    untouched[1, 1] = False
    assert torch.equal(gradients["offset"][..., untouched], clean_gradients["offset"][..., untouched])


def test_docstring_example_of_a_shift(implementation: Implementation) -> None:
    """(dy, dx) = (1, 2) at the only tap reads one row down and two columns to the right."""
    image = torch.arange(12.0).view(1, 1, 3, 4)
    offset = tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    output = implementation(image, offset.float(), torch.ones(1, 1, 1, 1))
    assert output[0, 0].tolist() == [[6, 7, 0, 0], [10, 11, 0, 0], [0, 0, 0, 0]]
