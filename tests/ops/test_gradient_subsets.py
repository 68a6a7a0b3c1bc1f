# SPDX-License-Identifier: Apache-2.0
"""Every subset of the gradients of every operator: the same numbers, whichever others are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pliant.ops import (
    _backends,
    deform_conv2d,
    deform_ps_roi_pool,
    deform_roi_pool,
)
from pliant.ops._deform_conv2d import contract
from pliant.ops._deform_ps_roi_pool.contract import OPERATOR as PS
from pliant.ops._deform_roi_pool.contract import OPERATOR as PLAIN

IMPLS = ["reference", *(["native"] if _backends.native_library() is not None else [])]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def convolution(dtype: torch.dtype) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    tensors = {"input": torch.randn(2, 6, 5, 4), "offset": torch.randn(2, 12, 5, 3), "weight": torch.randn(4, 3, 3, 2),
               "bias": torch.randn(4), "mask": torch.rand(2, 6, 5, 3)}  # fmt: skip
    return lambda impl, **t: deform_conv2d(**t, padding=(1, 0), impl=impl), _typed(tensors, dtype)


def pooling(dtype: torch.dtype) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    tensors = {"input": torch.randn(2, 6, 5, 4), "boxes": _boxes(), "offset": torch.randn(3, 2, 3, 2),
               "mask": torch.rand(3, 1, 3, 2)}  # fmt: skip
    return lambda impl, **t: deform_roi_pool(output_size=(3, 2), **t, impl=impl), _typed(tensors, dtype)


def position_sensitive(dtype: torch.dtype) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    tensors = {"input": torch.randn(2, 24, 5, 4), "boxes": _boxes(), "offset": torch.randn(3, 4, 3, 2),
               "mask": torch.rand(3, 2, 3, 2)}  # fmt: skip
    options: dict[str, Any] = {"output_size": (3, 2), "output_channels": 6, "group_size": 2}
    return lambda impl, **t: deform_ps_roi_pool(**options, **t, impl=impl), _typed(tensors, dtype)


def _boxes() -> Tensor:
    return torch.tensor([[1, 0.3, 0.4, 3.1, 4.2], [0, -1.0, 1.2, 2.3, 3.4], [1, 1.1, 0.2, 3.9, 2.8]])


def _typed(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: t if n == "boxes" and dtype != torch.float64 else t.to(dtype) for n, t in tensors.items()}


@pytest.mark.parametrize("operator", [convolution, pooling, position_sensitive])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_subset_of_gradients(
    operator: Callable[..., tuple[Callable[..., Tensor], dict[str, Tensor]]], impl: str, dtype: torch.dtype
) -> None:
    """A gradient is the same whichever others are asked for; boxes that are rounded need none and get none."""
    call, tensors = operator(dtype)
    names = list(tensors)

    def gradients(wanted: tuple[str, ...]) -> dict[str, Tensor | None]:
        leaves = {n: t.detach().clone().requires_grad_(n in wanted) for n, t in tensors.items()}
        output = call(impl, **leaves)
        if output.requires_grad:
            output.sum().backward()
        return {n: leaf.grad for n, leaf in leaves.items()}

    everything = gradients(tuple(names))
    without = {"boxes"} if operator is position_sensitive else set()
    assert {n for n, g in everything.items() if g is None} == without
    for size in range(len(names)):
        for wanted in itertools.combinations(names, size):
            found = gradients(wanted)
            assert {n for n, g in found.items() if g is not None} == set(wanted) - without
            for name in set(wanted) - without:
                one, two = found[name], everything[name]
                assert one is not None and two is not None
                torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_no_gradient_at_all_runs_no_kernel() -> None:
    """What autograd never asks for, and a caller of the operator itself may."""
    x, boxes = torch.randn(1, 4, 5, 6), _boxes()[:1] * 0
    for name, attributes, count in (
        ("deform_roi_pool", ((2, 3), 1.0, 2, 0.1), 4),
        ("deform_ps_roi_pool", ((2, 3), 1, 2, (2, 3), 2, 1.0, 0.1), 3),
    ):
        grad = torch.ones(1, 4 if count == 4 else 1, 2, 3)
        backward = getattr(torch.ops.pliant, f"{name}_backward")
        found = backward(grad, x, boxes, None, None, *attributes, [False] * count)
        assert [g.numel() for g in found] == [0] * count


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=5)))
def test_every_subset_of_the_closed_form(wanted: tuple[bool, ...]) -> None:
    """The functions that devices without kernels run, called past the dispatcher."""
    x, offset, weight, mask = (
        torch.randn(1, 4, 5, 6),
        torch.randn(1, 4, 4, 5),
        torch.randn(3, 4, 1, 2),
        torch.rand(1, 2, 4, 5),
    )
    grad = torch.randn(1, 3, 4, 5)
    geometry = ((1, 1), (0, 0), (1, 1))
    everything = contract.backward_reference(grad, x, offset, weight, *geometry, mask, [True] * 5)
    for one, two, need in zip(
        contract.backward_reference(grad, x, offset, weight, *geometry, mask, wanted), everything, wanted, strict=True
    ):
        assert torch.equal(one, two) if need else one.numel() == 0
    rois, shift, factor = (
        _boxes()[:2] * torch.tensor([0.0, 1, 1, 1, 1]),
        torch.randn(2, 2, 2, 3),
        torch.rand(2, 1, 2, 3),
    )
    for operator, image, attributes in (
        (PLAIN, x, ((2, 3), 1.0, 2, 0.1)),
        (PS, x, ((2, 3), 1, 2, (2, 3), 2, 1.0, 0.1)),
    ):
        needed = wanted[: len(operator.gradients)]
        upstream = torch.randn(2, 4 if operator is PLAIN else 1, 2, 3)
        full = operator.backward_reference(upstream, image, rois, shift, factor, *attributes, [True] * len(needed))
        part = operator.backward_reference(upstream, image, rois, shift, factor, *attributes, needed)
        for one, two, need in zip(part, full, needed, strict=True):
            assert torch.equal(one, two) if need else one.numel() == 0
