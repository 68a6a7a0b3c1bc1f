# SPDX-License-Identifier: Apache-2.0
"""An operator that is called in the middle of another, on the same thread."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pliant.ops import (
    _backends,
    deform_conv2d,
    deform_roi_pool,
)

IMPLS = ["reference", *(["native"] if _backends.native_library() is not None else [])]


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run something again and again in the middle of whatever the main thread does, from a signal handler."""
    before = signal.getsignal(signal.SIGALRM)

    def start(action: Callable[[], None]) -> None:
        def handler(number: int, frame: object) -> None:
            action()
            signal.setitimer(signal.ITIMER_REAL, 0.0003)  # once more, when this one is done

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif("native" not in IMPLS, reason="no compiled library")
def test_a_call_in_the_middle_of_another_overwrites_nothing(
    alarm: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a signal handler, a `__del__` method or the garbage collector: on the same thread, between two steps."""
    x, offset, weight = torch.randn(1, 16, 24, 20), torch.randn(1, 18, 24, 20), torch.randn(8, 16, 3, 3)
    boxes, other = torch.tensor([[0, 1.0, 2.0, 17.0, 20.0]]).repeat(40, 1), torch.full((1, 16, 24, 20), 7.0)
    upstream = torch.randn(1, 8, 24, 20)

    def both(image: Tensor) -> list[Tensor]:
        y = deform_conv2d(image, offset, weight, padding=1, impl="native")
        backward = torch.ops.pliant.deform_conv2d_backward  # itself, since autograd is off inside an operator
        pairs = ((1, 1), (1, 1), (1, 1))
        gradients = backward(upstream, image, offset, weight, *pairs, None, [True, True, True, True, False])
        return [y, *gradients[:4], deform_roi_pool(image, boxes, 7, impl="native")]

    expected = both(x)
    count = 0

    def interrupt() -> None:
        nonlocal count
        count += 1
        both(other)

    alarm(interrupt)
    for _ in range(1000):
        for found, wanted in zip(both(x), expected, strict=True):
            assert torch.equal(found, wanted)
        if count > 30:
            return
    pytest.fail(f"only {count} interruptions")
