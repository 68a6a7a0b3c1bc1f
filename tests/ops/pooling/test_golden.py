# SPDX-License-Identifier: Apache-2.0
"""RoI pooling: numbers worked out by hand, published by another implementation, or computed by torchvision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from pliant.ops import deform_ps_roi_pool, deform_roi_pool


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


IMAGE = tensor([[[[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]]])
BOX = tensor([[0, 0, 0, 3, 3]])
ONE_TO_THE_RIGHT = tensor([[[[1, 1], [1, 1]], [[0, 0], [0, 0]]]])
ONE_DOWN = ONE_TO_THE_RIGHT.flip(1)


# mmcv's tests/test_ops/test_deform_roi_pool.py: image, last corner of the box, output, gradient of the output's sum.
MMCV = (
    ([[1, 2], [3, 4]], 1, [[1, 1.25], [1.5, 1.75]], [[3.0625, 0.4375], [0.4375, 0.0625]]),
    ([[4, 3], [2, 1]], 1, [[4, 3.75], [3.5, 3.25]], [[3.0625, 0.4375], [0.4375, 0.0625]]),
    (IMAGE[0, 0].tolist(), 3, [[1.9375, 4.75], [7.5625, 10.375]],
     [[0.47265625, 0.4296875, 0.4296875, 0.04296875], [0.4296875, 0.390625, 0.390625, 0.0390625],
      [0.4296875, 0.390625, 0.390625, 0.0390625], [0.04296875, 0.0390625, 0.0390625, 0.00390625]]),
)  # fmt: skip


@pytest.mark.parametrize("offset", [None, torch.zeros_like(ONE_DOWN)])
@pytest.mark.parametrize(("pixels", "last", "published", "gradient"), MMCV)
def test_mmcvs_own_numbers(
    roi_public: Any, pixels: object, last: float, published: object, gradient: object, offset: Tensor | None
) -> None:
    """They are those of its layer at the start, when all offsets are 0."""
    image = tensor([[pixels]]).requires_grad_()
    y = deform_roi_pool(image, tensor([[0, 0, 0, last, last]]), 2, offset, sampling_ratio=2, impl=roi_public)
    torch.testing.assert_close(y, tensor([[published]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), image)[0], tensor([[gradient]]), rtol=0, atol=1e-12)


def test_mmcvs_rule_with_an_offset(roi_public: Any) -> None:
    """Worked out: every bin 0.3 pixels further to the right."""
    y = deform_roi_pool(IMAGE, BOX, 2, ONE_TO_THE_RIGHT, sampling_ratio=2, impl=roi_public)
    torch.testing.assert_close(y, tensor([[[[2.175, 5.35], [7.8, 10.975]]]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("samples", "offset", "expected"),
    [
        (2, None, [[1.75, 5], [8.25, 11.5]]),
        (4, None, [[2.125, 5.75], [9.375, 13]]),
        (2, ONE_TO_THE_RIGHT, [[1.95, 5.8], [8.45, 12.3]]),
        (2, ONE_DOWN, [[2.15, 5.4], [9.85, 13.1]]),
    ],
)
def test_official_outputs(roi_public: Any, samples: int, offset: Tensor | None, expected: list[list[float]]) -> None:
    """Worked out from the papers' own code."""
    y = deform_ps_roi_pool(IMAGE, BOX, 2, 1, offset, samples_per_bin=samples, impl=roi_public)
    torch.testing.assert_close(y, tensor([[expected]]), rtol=0, atol=1e-12)


def test_official_position_sensitive_output(roi_public: str) -> None:
    scores = torch.arange(64, dtype=torch.float64).view(1, 4, 4, 4)
    y = deform_ps_roi_pool(scores, BOX, 2, 1, group_size=2, samples_per_bin=2, impl=roi_public)  # type: ignore[arg-type]
    assert y.tolist() == [[[[1.25, 19], [40.25, 58]]]]


# -- torchvision -------------------------------------------------------------------------------------------------------


def boxes_around(size: tuple[int, int], scale: float, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return boxes inside, across the border, outside, larger than the image, and of no size."""
    picture = tensor([size[1], size[0]]) / scale
    centre = torch.rand(count, 2, dtype=torch.float64) * picture * 1.6 - 0.3 * picture
    side = torch.rand(count, 2, dtype=torch.float64) ** 2 * picture * 2
    side[:3] *= tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    image = torch.arange(count) % 2
    return torch.cat([image.unsqueeze(1), centre - side / 2, centre + side / 2], 1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sampling_ratio", [0, -1, 1, 3])
@pytest.mark.parametrize(("bins", "scale"), [((7, 7), 0.25), ((1, 4), 1.0), ((5, 2), 1 / 16)])
def test_without_offset_and_mask_it_is_roi_align(
    roi_public: Any, bins: tuple[int, int], scale: float, sampling_ratio: int, dtype: torch.dtype
) -> None:
    image = torch.randn(2, 3, 11, 17, dtype=dtype, requires_grad=True)
    boxes = boxes_around((11, 17), scale, 40, dtype)
    ours = deform_roi_pool(image, boxes, bins, spatial_scale=scale, sampling_ratio=sampling_ratio, impl=roi_public)
    theirs = roi_align(image, boxes, bins, scale, sampling_ratio, aligned=True)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    upstream = torch.randn_like(theirs)
    gradients = [torch.autograd.grad(y, image, upstream)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=20 * tolerance)
    assert gradients[0].abs().max() > 0.1


def test_boxes_far_larger_than_the_image_are_roi_aligns(roi_public: Any) -> None:
    """Bins of up to 300 pixels: what lies before and behind the image is passed over, not looked at."""
    image = torch.randn(1, 2, 9, 14, dtype=torch.float64)
    boxes = tensor([[0, -500, -300, 400, 250], [0, 2, -800, 9, 5], [0, -3, 4, 600, 5], [0, 3, 3, 900, 900]])
    ours = deform_roi_pool(image, boxes, 3, impl=roi_public)
    torch.testing.assert_close(ours, roi_align(image, boxes, 3, aligned=True), rtol=1e-11, atol=1e-15)
    assert ours.abs().flatten(1).max(1)[0].min() > 0


# -- one sample on [10, 20, 30] ----------------------------------------------------------------------------------------

COLUMN = tensor([10.0, 20.0, 30.0])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("position", "value", "slope"),
    [(-1.25, 0, 0), (-1, 10, 0), (-0.5, 10, 0), (0, 10, 10), (0.25, 12.5, 10), (1, 20, 10), (1.5, 25, 10), (2, 30, 0),
     (2.5, 30, 0), (3, 30, 0), (3.25, 0, 0), (math.nan, 0, 0), (math.inf, 0, 0), (-math.inf, 0, 0), (1e30, 0, 0),
     (-1e300, 0, 0)],
)  # fmt: skip
def test_a_column_of_three(roi_public: Any, axis: int, position: float, value: float, slope: float) -> None:
    """A box of 2x2 with one sample in its middle: what it reads, and the slope that offset, boxes and pixels get."""
    image = COLUMN.view((1, 1, 3, 1) if axis == 0 else (1, 1, 1, 3)).clone().requires_grad_()
    box = tensor([[0, -0.5, -0.5, 1.5, 1.5]]).requires_grad_()  # its middle is pixel 0
    offset = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    offset[0, 1 - axis] = position  # in units of gamma * 2 = 1 pixel
    offset, mask = offset.requires_grad_(), tensor([[[[0.25]]]]).requires_grad_()
    y = deform_roi_pool(image, box, 1, offset, mask, sampling_ratio=1, gamma=0.5, impl=roi_public)
    assert y.item() == value / 4
    g_image, g_box, g_offset, g_mask = torch.autograd.grad(y, [image, box, offset, mask])
    assert g_mask.item() == value
    assert g_offset.flatten().tolist() == [slope / 4 * axis, slope / 4 * (1 - axis)]
    t = 0.5 + 0.5 * position if slope else 0.0  # the place in the box, shift included
    assert g_box.tolist() == [[0, *([(1 - t) * slope / 4 * i for i in (axis, 1 - axis)]),
                               *([t * slope / 4 * i for i in (axis, 1 - axis)])]]  # fmt: skip
    assert (g_image * image).sum().item() == pytest.approx(value / 4)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("position", "value", "slope"),
    [(-0.75, 0, 0), (-0.5, 10, 0), (-0.25, 10, 0), (0, 10, 0), (0.25, 12.5, 10), (1, 20, 0), (1.5, 25, 10), (2, 30, 0),
     (2.5, 30, 0), (2.75, 0, 0), (math.nan, 0, 0), (math.inf, 0, 0), (-math.inf, 0, 0), (1e30, 0, 0)],
)  # fmt: skip
def test_a_column_of_three_officially(roi_public: Any, axis: int, position: float, value: float, slope: float) -> None:
    """The papers' code reads half a pixel beyond the border, and gives no slope on a pixel."""
    image = COLUMN.view((1, 1, 3, 1) if axis == 0 else (1, 1, 1, 3)).clone().requires_grad_()
    offset = torch.full((1, 2, 1, 1), 0.5, dtype=torch.float64)  # from the corner at -1/2 to pixel 0
    offset[0, 1 - axis] = position + 0.5  # in units of gamma * 2 = 1 pixel
    offset, mask = offset.requires_grad_(), tensor([[[[0.25]]]]).requires_grad_()
    box = tensor([[0, 0, 0, 1, 1]])
    y = deform_ps_roi_pool(image, box, 1, 1, offset, mask, samples_per_bin=1, gamma=0.5, impl=roi_public)
    assert y.item() == value / 4
    g_image, g_offset, g_mask = torch.autograd.grad(y, [image, offset, mask])
    assert g_mask.item() == value
    assert g_offset.flatten().tolist() == [slope / 4 * axis, slope / 4 * (1 - axis)]
    assert (g_image * image).sum().item() == pytest.approx(value / 4)


def test_only_samples_that_are_read_count_officially(roi_public: Any) -> None:
    """Samples at x = -1.5, -0.5, 0.5, 1.5 and y = 0: the first is left out, and three remain."""
    image = tensor([[[[2.0, 4.0, 8.0]]]])
    box, offset = tensor([[0, -1, 0, 2, 0]]), tensor([[[[0.0]], [[0.5]]]])
    y = deform_ps_roi_pool(image, box, 1, 1, offset, samples_per_bin=4, gamma=1.0, impl=roi_public)
    y_rows = [0.0, 0.25, 0.5, 0.75]  # all four rows lie inside the one-pixel image's half-pixel border or at 0.5
    assert sum(-0.5 <= p <= 0.5 for p in y_rows) == 3
    assert y.item() == pytest.approx((2 + 3 + 6) / 3)


def test_a_bin_larger_than_32768_pixels_has_that_many_samples(roi_public: Any) -> None:
    """A box of 2**17 x 1 pixels: samples 4 apart, at 1.5 and 5.5 in the image."""
    image = torch.arange(8, dtype=torch.float64).view(1, 1, 1, 8)
    y = deform_roi_pool(image, tensor([[0, 0, 0, 2.0**17, 1]]), 1, impl=roi_public)
    assert y.item() == (1.5 + 5.5) / 2**15


def test_the_image_of_a_box_is_the_nearest_number(roi_public: Any) -> None:
    """So that a finite difference of all five numbers of a box moves no box to another image."""
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 4, 5)
    boxes = torch.tensor([[i, 1.0, 1.0, 3.0, 3.0] for i in (-1e-6, 1e-6, 1 - 1e-6, 1 + 1e-6, 2 - 1e-6)])
    assert deform_roi_pool(images, boxes, 1, impl=roi_public).flatten().tolist() == [0, 0, 1, 1, 2]
    assert deform_ps_roi_pool(images, boxes, 1, 1, impl=roi_public).flatten().tolist() == [0, 0, 1, 1, 2]
