# SPDX-License-Identifier: Apache-2.0
"""Half precision and mixtures: stored in few bits, computed in float32, coordinates above all."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from helpers.convolution.checks import Implementation
from pliant.ops import deform_conv2d

HALVES = (torch.bfloat16, torch.float16)


def wide_image(width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a smooth image four rows high, offsets N(0, 2), and weights: what peers get wrong from column 64 on."""
    columns = torch.linspace(0, width / 9, width, dtype=torch.float64)
    image = torch.sin(columns).expand(1, 3, 4, width) + torch.arange(3.0).view(3, 1, 1)
    return image, torch.randn(1, 18, 4, width, dtype=torch.float64) * 2, torch.randn(5, 3, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("width", [64, 2048])
@pytest.mark.parametrize("dtype", HALVES)
def test_wide_images_keep_their_fractions(implementation: Implementation, dtype: torch.dtype, width: int) -> None:
    """A coordinate kept in half precision is wrong by 38 % of the result at column 2048; the width must not matter."""
    image, offset, weight = (t.to(dtype) for t in wide_image(width))
    found = implementation(image, offset, weight, padding=1)
    exact = implementation(image.double(), offset.double(), weight.double(), padding=1)
    error = (found.double() - exact).norm() / exact.norm()
    assert found.dtype == dtype
    assert error < {torch.bfloat16: 0.005, torch.float16: 0.0008}[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_float32_offsets_beside_half_images_are_not_rounded(implementation: Implementation, dtype: torch.dtype) -> None:
    image, _, weight = (t.to(dtype) for t in wide_image(600))
    offset = torch.full((1, 18, 4, 600), 2.0**-10)  # lost when added to 512 in 16 bits, and below bfloat16's step at 1
    offset[:, 1::2] += 100.0
    found = implementation(image, offset.requires_grad_(), weight, padding=1)
    exact = implementation(image.double(), offset.double(), weight.double(), padding=1)
    torch.testing.assert_close(found.double(), exact, rtol=0.01, atol=0.05)
    found.float().sum().backward()
    assert offset.grad is not None
    assert offset.grad.dtype == torch.float32


def test_float32_offsets_beside_float64_images_lose_nothing(implementation: Implementation) -> None:
    image, offset, weight = wide_image(40)
    found = implementation(image, offset.float(), weight, padding=1)
    exact = implementation(image, offset.float().double(), weight, padding=1)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("image_dtype", "offset_dtype"),
    [p for p in itertools.product((torch.float32, torch.float64, *HALVES), repeat=2) if p[0] != p[1]],
)
def test_any_floating_offset_serves_any_image(
    implementation: Implementation, image_dtype: torch.dtype, offset_dtype: torch.dtype
) -> None:
    image, offset, weight = wide_image(20)
    tensors = (image.to(image_dtype), offset.to(offset_dtype), weight.to(image_dtype))
    leaves = [t.requires_grad_() for t in tensors]
    output = implementation(*leaves, padding=1)
    exact = implementation(*(t.detach().double() for t in leaves), padding=1)
    assert output.dtype == image_dtype
    assert (output.double() - exact).norm() / exact.norm() < 0.005
    gradients = torch.autograd.grad(output.float().sum(), leaves)
    assert [g.dtype for g in gradients] == [t.dtype for t in tensors]
    assert all(g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("offset_from", ["convolution", "float32"])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_autocast_on_the_cpu(impl: str, offset_from: str) -> None:
    """Torchvision has no autocast rule for the CPU: an offset made by a convolution is an error there."""
    torch.manual_seed(3)
    branch = nn.Conv2d(6, 27, 3, padding=1)
    weight, bias = torch.randn(4, 6, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    x = torch.randn(2, 6, 9, 11)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = branch(x)
        assert prediction.dtype == torch.bfloat16
        offset = prediction[:, :18] if offset_from == "convolution" else prediction[:, :18].float() + 2.0**-12
        y = deform_conv2d(x, offset, weight, bias, padding=1, mask=prediction[:, 18:].sigmoid(), impl=impl)
    exact = deform_conv2d(x, offset.float(), weight, bias, padding=1, mask=prediction[:, 18:].float().sigmoid())
    assert y.dtype == torch.bfloat16
    assert 1e-4 < (y.float() - exact).norm() / exact.norm() < 0.02, (
        "computed in bfloat16, from offsets that kept their bits"
    )
    y.float().square().sum().backward()
    found = [weight.grad, bias.grad, branch.weight.grad, branch.bias.grad]
    assert all(g is not None and g.dtype == torch.float32 and bool(g.isfinite().all()) and bool(g.any()) for g in found)


def test_autocast_leaves_float64_alone() -> None:
    image, offset, weight = wide_image(12)
    with torch.autocast("cpu", torch.bfloat16):
        y = deform_conv2d(image, offset, weight, padding=1)
    assert torch.equal(y, deform_conv2d(image, offset, weight, padding=1))
