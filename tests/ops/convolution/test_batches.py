# SPDX-License-Identifier: Apache-2.0
"""Batches of small images, of which one call of a kernel takes many."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers.convolution.cases import Case
from helpers.convolution.checks import DIFFERENTIABLE, Implementation, check_forward_backward, run
from pliant.ops._deform_conv2d import cpu_native, cpu_native_backward, cpu_problem, cpu_products

# Every image has offsets of its own. Maps are smaller than any block of positions, so that blocks begin and end in the
# middle of images, and have one position at the least.
BATCHES = [
    Case("batch", 19, 6, (4, 3), 4, (3, 2), padding=(1, 1), groups=2, offset_groups=3),
    Case("batch_of_pixels", 41, 5, (1, 1), 3, (3, 3), padding=(1, 1)),
    Case("batch_depthwise", 17, 6, (3, 5), 6, (2, 3), padding=(1, 1), groups=6, offset_groups=2),
    Case("batch_of_one_channel", 9, 1, (4, 5), 2, (3, 2), padding=(1, 0)),
    Case("batch_channels_last", 23, 12, (2, 3), 5, (3, 3), padding=(1, 1), layout="channels_last"),
    Case("batch_depthwise_channels_last", 7, 20, (5, 3), 20, (3, 3), (2, 1), (1, 1), groups=20, layout="channels_last"),
    # An image alone has fewer positions than outputs, all together have more.
    Case("batch_many_outputs", 11, 20, (2, 3), 37, (3, 2), padding=(1, 0), offset_groups=2),
    Case("batch_many_outputs_channels_last", 9, 17, (3, 2), 40, (2, 3), padding=(0, 1), layout="channels_last"),
    Case("batch_strided", 11, 4, (3, 4), 3, (2, 2), layout="strided"),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ids = pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many images each call of a kernel takes."""
    found: list[int] = []
    describe = cpu_problem.CpuConvolution.tile

    def count(
        problem: cpu_problem.CpuConvolution, s: cpu_problem.ChannelSlice, run: cpu_problem.Run, first: int, last: int
    ) -> cpu_problem.TileArguments:
        arguments = describe(problem, s, run, first, last)
        found.append(arguments[0].images)
        return arguments

    monkeypatch.setattr(cpu_problem.CpuConvolution, "tile", count)
    return found


@ids
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_of_small_images_is_one_call(
    native: Implementation,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    case: Case,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(cpu_products, "has_bfloat16_products", lambda: threads == 2)
    monkeypatch.setattr(cpu_products, "FEWEST_CHANNELS", 1)
    check_forward_backward(native, case, dtype)
    assert calls == [case.n, case.n], "one call forward, one backward"


@ids
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", ["copies", "positions", "memory of a tile"])
def test_more_images_than_one_call_takes(
    native: Implementation,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    case: Case,
    dtype: torch.dtype,
) -> None:
    """Calls of four images, the last of fewer, whichever of the limits is reached first."""
    positions, height = case.output_size[0] * case.output_size[1], case.size[0]
    wide = 8 if dtype == torch.float64 else 4
    monkeypatch.setattr(cpu_products, "has_bfloat16_products", lambda: limit == "positions")
    monkeypatch.setattr(cpu_products, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(cpu_native_backward, "BLOCK", 1)
    if limit == "copies":
        monkeypatch.setattr(cpu_problem, "IMAGE_BYTES", 4 * case.channels * height * case.size[1] * wide)
    elif limit == "positions":
        for module in (cpu_native, cpu_native_backward, cpu_products):
            monkeypatch.setattr(module, "MAX_POSITIONS", 5 * positions - 1)
    else:
        monkeypatch.setattr(cpu_native, "MAX_POSITIONS", 4 * positions)
        monkeypatch.setattr(cpu_native_backward, "TILE_BYTES", 4 * positions * case.out_channels * wide)
    check_forward_backward(native, case, dtype)
    in_place = case.layout == "channels_last" and limit == "copies"
    expected = [case.n] if in_place else [4] * (case.n // 4) + [case.n % 4]
    assert calls[: len(expected)] == expected
    backward = calls[len(expected) :]
    assert max(backward) == (case.n if in_place and dtype.itemsize >= 4 else 4)


@ids
@pytest.mark.parametrize("dtype", DTYPES)
def test_images_of_a_batch_know_nothing_of_each_other(
    native: Implementation, monkeypatch: pytest.MonkeyPatch, case: Case, dtype: torch.dtype
) -> None:
    """Each image alone gives the same bits, but for the gradients that are sums over images."""
    monkeypatch.setattr(cpu_products, "has_bfloat16_products", lambda: False)  # PyTorch's products promise no bits
    arguments, upstream = case.arguments(dtype), case.upstream(dtype)
    output, gradients = run(native, arguments, upstream)
    for n in range(case.n):
        image = slice(n, n + 1)
        assert arguments.mask is not None
        one = arguments._replace(
            input=arguments.input[image], offset=arguments.offset[image], mask=arguments.mask[image]
        )
        found, found_gradients = run(native, one, upstream[image])
        assert torch.equal(found, output[image])
        for name in ("input", "offset", "mask"):
            assert torch.equal(found_gradients[name], gradients[name][image]), name


@ids
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_subset_of_gradients_of_a_batch(native: Implementation, case: Case, dtype: torch.dtype) -> None:
    arguments, upstream = case.arguments(dtype), case.upstream(dtype)
    _, everything = run(native, arguments, upstream)
    for wanted in itertools.product([False, True], repeat=len(DIFFERENTIABLE)):
        names = [name for name, is_wanted in zip(DIFFERENTIABLE, wanted, strict=True) if is_wanted]
        leaves = {name: getattr(arguments, name).detach().requires_grad_() for name in names}
        output = native(*arguments._replace(**leaves))
        found = torch.autograd.grad(output, list(leaves.values()), upstream) if leaves else ()
        for name, gradient in zip(names, found, strict=True):
            close = 1e-5 if dtype == torch.float32 else 2e-3  # columns alone are rounded in another order
            torch.testing.assert_close(gradient, everything[name], rtol=close, atol=close, msg=f"{name} of {names}")


def test_copies_of_a_batch_stay_within_the_promise(
    native: Implementation, monkeypatch: pytest.MonkeyPatch, taken: Callable[[], dict[str, int]]
) -> None:
    """Copies of 500 images would take eight times as much as one call may."""
    limit = 1 << 20
    monkeypatch.setattr(cpu_problem, "IMAGE_BYTES", limit)
    x = torch.randn(500, 16, 16, 17, requires_grad=True)
    offset, weight = torch.randn(500, 2, 16, 17), torch.randn(3, 16, 1, 1)
    native(x, offset, weight).sum().backward()
    most = taken()
    assert 0.9 * limit < most["image"] <= limit and 0.9 * limit < most["image_memory"] <= limit


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Return the most bytes that calls take at once, by purpose."""
    most: dict[str, int] = {}
    take = cpu_problem.Scratch.take

    def record(scratch: cpu_problem.Scratch, purpose: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        memory = take(scratch, purpose, shape, dtype)
        most[purpose] = max(most.get(purpose, 0), memory.nbytes)
        return memory

    monkeypatch.setattr(cpu_problem.Scratch, "take", record)
    return lambda: most
