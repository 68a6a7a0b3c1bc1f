# SPDX-License-Identifier: Apache-2.0
"""Products in bfloat16 by PyTorch's library: forced here, where processors may have no instructions for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pliant.ops import _backends, deform_conv2d

pytestmark = pytest.mark.skipif(_backends.native_library() is None, reason="no native library")


def results(tensors: list[Tensor], bias: Tensor | None, upstream: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    x, offset, weight, mask = leaves
    y = deform_conv2d(x, offset, weight, bias, stride=(1, 2), padding=1, mask=mask)
    return [y.detach(), *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("offset_groups", [1, 3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_they_are_as_near_as_rounded_columns_can_be(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, offset_groups: int, with_bias: bool
) -> None:
    """Against float64, of the same bfloat16 numbers; a column is rounded once more than by the fused kernel."""
    from pliant.ops._deform_conv2d import cpu_products

    called = []
    monkeypatch.setattr(cpu_products, "has_bfloat16_products", lambda: not called.append(1))
    monkeypatch.setattr(cpu_products, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(cpu_products, "MAX_POSITIONS", 13)  # tiles that end in the middle of a row
    generator = torch.Generator().manual_seed(4)
    shapes = [(2, 21, 7, 11), (2, 18 * offset_groups, 7, 6), (10, 21, 3, 3), (2, 9 * offset_groups, 7, 6)]
    exact = [torch.randn(shape, generator=generator).bfloat16().contiguous(memory_format=layout) for shape in shapes]
    bias = torch.randn(10, generator=generator).bfloat16() if with_bias else None
    upstream = torch.randn(2, 10, 7, 6, generator=generator).bfloat16().contiguous(memory_format=layout)
    found = results(exact, bias, upstream)
    assert called, "the path under test was not taken"
    truth = results([t.double() for t in exact], None if bias is None else bias.double(), upstream.double())
    for name, a, b in zip(["output", "input", "offset", "weight", "mask"], found, truth, strict=True):
        assert a.dtype == torch.bfloat16
        error = (a.double() - b).norm() / b.norm()
        assert error < 2**-7, f"{name}: relative error {error:.2g}"
