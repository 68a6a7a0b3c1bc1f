# SPDX-License-Identifier: Apache-2.0
"""Images that are taken in slices of channels: nothing is copied that lies as it is read, nothing is rounded twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.convolution.checks import Implementation
from pliant.ops._deform_conv2d import cpu_native_backward, cpu_problem
from pliant.ops._native.memory import Scratch


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the memory that calls take beside their results: purpose and bytes."""
    found: list[tuple[str, int]] = []
    take = Scratch.take

    def record(scratch: Scratch, purpose: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        memory = take(scratch, purpose, shape, dtype)
        found.append((purpose, memory.nbytes))
        return memory

    monkeypatch.setattr(Scratch, "take", record)
    return found


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planes_larger_than_the_limit_are_read_and_written_in_place(
    native: Implementation,
    taken: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    groups: int,
    dtype: torch.dtype,
) -> None:
    x, weight = torch.randn(2, 3, 21, 17, dtype=dtype), torch.randn(6, 3 // groups, 3, 2, dtype=dtype)
    offset = torch.randn(2, 12, 21, 16, dtype=dtype)

    def results() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, offset, weight)]
        y = native(*leaves, None, 1, (1, 0))
        return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    expected = results()
    assert {"image", "image_memory"} <= {purpose for purpose, _ in taken}
    taken.clear()
    monkeypatch.setattr(cpu_problem, "IMAGE_BYTES", 100)  # less than a plane
    monkeypatch.setattr(cpu_native_backward, "OWN_BYTES", 100)
    for found, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert {purpose for purpose, _ in taken} <= {"weight", "shares", "upstream"}  # no plane


@pytest.mark.parametrize("groups", [1, 40])
def test_threads_add_up_in_memory_of_their_own(
    native: Implementation, taken: list[tuple[str, int]], threads: int, groups: int
) -> None:
    """Side by side in a pixel they would wait for each other. What they give is compared in test_robustness.py."""
    x = torch.randn(2, 40, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = native(x, torch.randn(2, 8, 6, 7), torch.randn(40, 40 // groups, 2, 2), None, 1, 1)
    y.sum().backward()
    assert ("image_memory" in dict(taken)) == (threads > 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_slices_of_a_half_type_add_up_in_float32(
    native: Implementation, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Rounded once, an error is 0.29 units at most on average; rounded after each of 16 slices it is more than that."""
    x = torch.randn(2, 256, 9, 11).to(dtype)
    offset, mask = torch.randn(2, 18, 9, 11).to(dtype), torch.rand(2, 9, 9, 11).to(dtype)
    weight, upstream = torch.randn(16, 256, 3, 3).to(dtype), torch.randn(2, 16, 9, 11).to(dtype)
    monkeypatch.setattr(cpu_problem, "IMAGE_BYTES", 16 * 9 * 11 * 4)

    def results(wide: torch.dtype) -> list[Tensor]:
        leaves = [t.to(wide).requires_grad_() for t in (x, offset, weight, mask)]
        y = native(leaves[0], leaves[1], leaves[2], None, 1, 1, 1, leaves[3])
        return [y.detach(), *torch.autograd.grad(y, [leaves[1], leaves[3]], upstream.to(wide))]

    for found, truth in zip(results(dtype), results(torch.float64), strict=True):
        relative = (found.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt()
        assert relative < 0.35 * torch.finfo(dtype).eps
