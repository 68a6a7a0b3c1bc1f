# SPDX-License-Identifier: Apache-2.0
"""Tensors as the kernels see them: addresses, memory that is used again, and transposed copies."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant.ops._native.library import Pair, Triple

KEPT_BYTES = 16 << 20  # of one purpose, that a thread keeps for its next call

_kept = threading.local()


class Scratch:
    """Memory of one call, by purpose, which the thread keeps for its next call.

    Memory fresh from the system costs a page fault every 4 KiB, which for a small convolution is a tenth of its time. A
    call takes all that the thread keeps, and gives it back at its end: another that starts in its middle, from a signal
    handler or a `__del__` method, finds nothing and makes its own.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = vars(_kept).pop("memory", {})

    def take(self, purpose: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory whose contents do not matter; what was taken before for this purpose is used again."""
        size = math.prod(shape) * dtype.itemsize
        memory = self._memory.get(purpose)
        if memory is None or memory.numel() < size:
            with torch.inference_mode(False):
                memory = torch.empty(size, dtype=torch.uint8)
            self._memory[purpose] = memory
        return memory[:size].view(dtype).view(*shape)

    def __del__(self) -> None:
        _kept.memory = {purpose: memory for purpose, memory in self._memory.items() if memory.numel() <= KEPT_BYTES}


@dataclass(frozen=True)
class Channels:
    """Channels [begin, end), which are worked on together."""

    begin: int
    end: int

    @property
    def width(self) -> int:
        """Return the number of channels."""
        return self.end - self.begin


def transpose(native: Any, source: Tensor, target: Tensor, threads: int) -> None:
    """Set the (N, X, Y) `target` to the transpose of the (N, Y, X) `source`; lines are contiguous, or made so."""
    if source.dtype != target.dtype:
        target.copy_(source.mT)
        return
    source = source if source.stride(2) == 1 else source.contiguous()
    native.transpose(
        Triple(*source.shape),
        source.data_ptr(),
        Pair(*source.stride()[:2]),
        target.data_ptr(),
        Pair(*target.stride()[:2]),
        source.itemsize,
        threads,
    )


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor's data, or None for none."""
    return None if tensor is None else tensor.data_ptr()
