# SPDX-License-Identifier: Apache-2.0
"""Numbers at the ends of their types: far offsets and boxes, pixels that are not finite, subnormal halves."""

from __future__ import annotations

import math

import pytest
import torch

from pliant.ops import (
    _backends,
    deform_conv2d,
    deform_ps_roi_pool,
    deform_roi_pool,
    instruction_set,
    instruction_sets,
)

IMPLS = ["reference", *(["native"] if _backends.native_library() is not None else [])]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("gamma", [2.5, -1.5, 0.1, 0.0])
@pytest.mark.parametrize("operator", ["plain", "ps"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_far_offsets_and_boxes_give_finite_gradients(
    impl: str, gamma: float, operator: str, sampling_ratio: int
) -> None:
    far = [3e38, -3e38, 1e30, math.nan, math.inf, 0.0, 0.3]
    rows = [
        [0.5, 1.0, 4.5, 3.0],
        [2.0, 1.0, 2.0, 1.0],
        [-3e38, 1.0, 3.0, 2.0],
        [-1e38, -1e38, 2e38, 2e38],
        [0, 0, 3e38, 3e38],
    ]
    boxes = torch.tensor([[0.0, *row] for row in rows for _ in far], requires_grad=True)
    offset = torch.tensor([[[[value, 0.2]], [[0.1, value]]] for _ in rows for value in far], requires_grad=True)
    mask = torch.rand(len(boxes), 1, 1, 2, requires_grad=True)
    x = torch.randn(1, 3, 5, 6, requires_grad=True)
    if operator == "plain":
        y = deform_roi_pool(x, boxes, (1, 2), offset, mask, gamma=gamma, sampling_ratio=sampling_ratio, impl=impl)
    else:
        y = deform_ps_roi_pool(
            x, boxes, (1, 2), 3, offset, mask, gamma=gamma, samples_per_bin=sampling_ratio + 1, impl=impl
        )
    y.square().sum().backward()
    assert bool(y.isfinite().all())
    for leaf in (x, offset, mask, *([boxes] if operator == "plain" else [])):
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
        assert bool((leaf.grad != 0).any()) or (leaf is offset and gamma == 0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("operator", ["plain", "ps"])
def test_without_gamma_offsets_have_no_gradient_in_boxes_of_any_size(impl: str, operator: str) -> None:
    """The slopes times the box's extent are infinite; times gamma they are 0 all the same."""
    x = 100 * torch.randn(1, 3, 5, 6)
    boxes = torch.tensor([[0, 0.5, 0.5, 3e38, 3e38], [0, 0.5, 1.0, 4.0, 3e38]])
    offset = torch.zeros(2, 2, 1, 2, requires_grad=True)
    if operator == "plain":
        y = deform_roi_pool(x, boxes, (1, 2), offset, gamma=0.0, sampling_ratio=2, impl=impl)
    else:
        y = deform_ps_roi_pool(x, boxes, (1, 2), 3, offset, gamma=0.0, samples_per_bin=2, impl=impl)
        assert bool((y != 0).any())  # the first sample of a bin stands where the box begins
    (gradient,) = torch.autograd.grad(100 * y.sum(), offset)
    assert torch.equal(gradient, torch.zeros_like(offset))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_far_offset_leaves_the_gradients_of_the_other_bins_as_they_are(impl: str) -> None:
    """The box's gradient with a bin that reads nothing is that of the other bin alone, times two."""
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    boxes = torch.tensor([[0, 1.0, 1.5, 5.0, 4.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    found = []
    for second in (0.0, 1e308):
        offset = torch.tensor([[[[0.2, second]], [[0.1, second]]]], dtype=torch.float64)
        y = deform_roi_pool(x, boxes, (1, 2), offset, mask, gamma=2.5, sampling_ratio=2, impl=impl)
        found.append(torch.autograd.grad(y.sum(), boxes)[0])
    torch.testing.assert_close(found[0], found[1])
    assert bool((found[0][0, 1:] != 0).all())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_pixel_that_is_not_finite_reaches_each_sample_that_it_is_a_corner_of(
    impl: str, layout: torch.memory_format, value: float
) -> None:
    """Also with weight 0, as `conv2d` multiplies it by a weight of 0."""
    x = torch.ones(1, 2, 4, 5)
    x[0, :, 2, 3] = value
    offset, weight = torch.zeros(1, 2, 4, 5), torch.ones(3, 2, 1, 1)
    y = deform_conv2d(x.contiguous(memory_format=layout), offset, weight, impl=impl)
    wrong = (~y.isfinite())[0, 0].nonzero().tolist()
    assert wrong == [[1, 2], [1, 3], [2, 2], [2, 3]]


@pytest.mark.parametrize("name", instruction_sets())
def test_half_numbers_below_the_normal_ones_survive_flushing(name: str) -> None:
    """`torch.set_flush_denormal` is about floats; 2^-20 is a half, and no small float."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        x = torch.full((1, 40, 3, 4), 2.0**-20, dtype=torch.float16)
        x[0, 1] = 2.0**-24
        x[0, 2] = -(2.0**-15)
        weight = torch.zeros(2, 40, 1, 1, dtype=torch.float16)
        weight[0, :3, 0, 0] = torch.tensor([1024.0, 2048.0, 512.0])
        with instruction_set(name):
            for layout in (torch.contiguous_format, torch.channels_last):
                image = x.contiguous(memory_format=layout)
                y = deform_conv2d(image, torch.zeros(1, 2, 3, 4), weight, impl="native")
                assert y[0, :, 1, 1].tolist() == [2.0**-10 + 2.0**-13 - 2.0**-6, 0.0]
                pooled = deform_roi_pool(image, [torch.tensor([[0.0, 0.0, 4.0, 3.0]])], 1, impl="native")
                assert pooled[0, :3, 0, 0].tolist() == [2.0**-20, 2.0**-24, -(2.0**-15)]
    finally:
        torch.set_flush_denormal(False)
