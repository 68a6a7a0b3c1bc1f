# SPDX-License-Identifier: Apache-2.0
"""Stride, padding and dilation of a convolution, and the sizes that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from pliant._check import fail

Pair = tuple[int, int]


class ConvGeometry(NamedTuple):
    """Where the taps of a convolution stand: (vertical, horizontal) pairs, in input pixels."""

    stride: Pair
    padding: Pair
    dilation: Pair

    def output_size(self, input_size: Sequence[int], kernel_size: Sequence[int]) -> Pair:
        """Return (Ho, Wo), with `Ho = floor((H + 2*padding - dilation*(kh - 1) - 1) / stride) + 1`."""
        height, width = (
            (input_size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel_size[i] - 1) - 1) // self.stride[i] + 1
            for i in range(2)
        )
        return height, width


def pair(argument: str, value: int | Sequence[int], *, minimum: int) -> Pair:
    """Return `value` as a (vertical, horizontal) pair of integers of at least `minimum`."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        fix = f"write {argument}={minimum}, for example"
        fail(argument, "must be an integer or a pair of integers", repr(value), fix)
    if min(values) < minimum:
        fail(argument, f"must be at least {minimum}", repr(value), f"use {minimum} or more")
    return values


def memory_format(input: Tensor) -> torch.memory_format:
    """Return channels_last where `input` is stored so and not also contiguous, else contiguous: what `conv2d` keeps."""
    if functorch.is_batchedtensor(input):  # vmap cannot say how its tensors are stored
        return torch.contiguous_format
    channels_last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
