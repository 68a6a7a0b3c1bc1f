# SPDX-License-Identifier: Apache-2.0
"""Memory that tells: what is never written stays NaN, and what is written beside a tensor is seen.

`guarded_memory` replaces the functions by which Python code gets uninitialised tensors. Each tensor then lies
between two bands of a known pattern and is NaN inside. An output element that a kernel forgets is NaN at the end, and
a store past either end of a buffer breaks a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

BAND = 4096  # bytes before and after each tensor
PATTERN = 0xA5


class Guard:
    """The tensors handed out, and the check that the bands around them are whole."""

    def __init__(self) -> None:
        self.buffers: list[tuple[Tensor, int]] = []

    def wrap(self, like: Tensor) -> Tensor:
        """Return a NaN-filled tensor of `like`'s shape, strides and dtype (`like` is on the meta device)."""
        size = like.untyped_storage().nbytes()
        buffer = torch.full((BAND + size + BAND,), PATTERN, dtype=torch.uint8)
        self.buffers.append((buffer, size))
        inside = buffer[BAND : BAND + size].view(like.dtype)
        if like.dtype.is_floating_point:
            inside.fill_(torch.nan)
        return inside.as_strided(like.shape, like.stride(), inside.storage_offset())

    def assert_whole(self) -> None:
        """Assert that nothing was written outside the tensors, and that there were any."""
        assert self.buffers, "no memory was taken through torch.empty: the guard saw nothing"
        for buffer, size in self.buffers:
            for band, place in ((buffer[:BAND], "before"), (buffer[BAND + size :], "after")):
                broken = int((band != PATTERN).sum())
                assert broken == 0, f"{broken} bytes were written {place} a tensor of {size} bytes"


@contextmanager
def guarded_memory() -> Iterator[Guard]:
    """Give all uninitialised CPU tensors that Python code asks for guard bands and NaN inside."""
    guard = Guard()

    def guarded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate(*args: Any, **kwargs: Any) -> Tensor:
            plain = function(*args, **kwargs)
            if plain.device.type != "cpu" or plain.numel() == 0 or plain.requires_grad:
                return plain
            return guard.wrap(plain.to("meta"))

        return allocate

    with (
        mock.patch.multiple(
            torch,
            empty=guarded(torch.empty),
            empty_like=guarded(torch.empty_like),
            empty_strided=guarded(torch.empty_strided),
        ),
        mock.patch.object(Tensor, "new_empty", guarded(Tensor.new_empty)),
    ):
        yield guard
