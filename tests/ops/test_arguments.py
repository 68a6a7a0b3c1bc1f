# SPDX-License-Identifier: Apache-2.0
"""Arguments as other libraries take and name them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pliant.ops import (
    deform_conv2d,
    deform_roi_pool,
)


def test_numbers_of_numpy_and_tensors_without_dimensions() -> None:
    x, offset, weight = torch.randn(1, 2, 7, 9), torch.randn(1, 18, 3, 6), torch.randn(3, 2, 3, 3)
    expected = deform_conv2d(x, offset, weight, None, (2, 2), (1, 2), (2, 1))
    found = deform_conv2d(x, offset, weight, None, np.int64(2), torch.tensor([1, 2]), np.array([2, 1]))
    assert torch.equal(found, expected)
    assert torch.equal(
        deform_conv2d(x, offset, weight, None, torch.tensor(2), [np.int32(1), 2], (2, torch.tensor(1))), expected
    )
    boxes = torch.tensor([[0, 1.0, 2.0, 6.0, 5.0]])
    numbers = {"spatial_scale": np.float32(0.5), "sampling_ratio": np.int64(2), "gamma": torch.tensor(0.25)}
    shift = torch.randn(1, 2, 2, 2)
    expected = deform_roi_pool(x, boxes, (2, 2), shift, spatial_scale=0.5, sampling_ratio=2, gamma=0.25)
    assert torch.equal(deform_roi_pool(x, boxes, np.int8(2), shift, **numbers), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [True, np.bool_(True), torch.tensor(True), torch.tensor(1.0), np.float64(1), "1", None]
)
def test_what_is_no_integer_is_refused(wrong: object) -> None:
    x, offset, weight = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(3, 2, 1, 1)
    with pytest.raises(ValueError, match="stride: must be an integer or a pair of integers; got .*; write stride=1"):
        deform_conv2d(x, offset, weight, stride=wrong)  # type: ignore[arg-type]


def test_a_tensor_in_the_wrong_place_is_named_by_its_shape() -> None:
    x, offset, weight = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.randn(3, 2, 1, 1)
    with pytest.raises(ValueError, match="must be") as caught:
        deform_conv2d(x, offset, weight, None, torch.rand(40, 50))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "stride: must be an integer or a pair of integers; got a Tensor of shape (40, 50); write stride=1, for example"
    )


def test_a_list_of_boxes_may_be_shorter_than_the_batch() -> None:
    """torchvision takes it: the images after it have none."""
    x, box = torch.randn(3, 2, 5, 6), torch.tensor([[1.0, 0.5, 4.0, 3.5]])
    expected = deform_roi_pool(x, torch.cat([torch.tensor([[0.0], [1.0]]), box.repeat(2, 1)], 1), 2)
    assert torch.equal(deform_roi_pool(x, [box, box], 2), expected)
    assert deform_roi_pool(x, [], 2).shape == (0, 2, 2, 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"deform_groups": 2}, "deform_groups: deform_conv2d has no argument of this name; got deform_groups=2; "
         "leave it out: the number of offset groups follows from the channels of offset"),
        ({"groups": 1}, "groups: deform_conv2d has no argument of this name; got groups=1; "
         "leave it out: the number of groups follows from dimension 1 of weight"),
    ],
)  # fmt: skip
def test_names_of_other_libraries(names: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        deform_conv2d(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), torch.zeros(3, 2, 1, 1), **names)
    assert str(caught.value) == message


def test_padding_by_name_is_that_of_conv2d() -> None:
    x, weight = torch.randn(1, 2, 6, 7), torch.randn(3, 2, 3, 5)
    for padding, size, dilation in (("same", (6, 7), (2, 1)), ("valid", (2, 3), (2, 1))):
        y = deform_conv2d(x, torch.zeros(1, 30, *size), weight, padding=padding, dilation=dilation)
        torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight, padding=padding, dilation=dilation))
