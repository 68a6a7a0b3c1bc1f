# SPDX-License-Identifier: Apache-2.0
"""Stride, padding and dilation of a convolution, and the sizes that follow from them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from pliant._check import fail, shown

Pair = tuple[int, int]


class ConvGeometry(NamedTuple):
    """Where the taps of a convolution stand: (vertical, horizontal) pairs, in input pixels."""

    stride: Pair
    padding: Pair
    dilation: Pair

    def __str__(self) -> str:
        return f"stride {self.stride}, padding {self.padding} and dilation {self.dilation}"

    def output_size(self, input_size: Sequence[int], kernel_size: Sequence[int]) -> Pair:
        """Return (Ho, Wo), with `Ho = floor((H + 2*padding - dilation*(kh - 1) - 1) / stride) + 1`."""
        height, width = (
            (input_size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel_size[i] - 1) - 1) // self.stride[i] + 1
            for i in range(2)
        )
        return height, width


def whole(value: Any) -> int | None:
    """Return `value` as an integer, or None where it is none: Python's, NumPy's, or a tensor without dimensions."""
    if isinstance(value, (int, torch.SymInt)):  # a tuple: PyTorch 2.6 traces no union of types
        return None if isinstance(value, bool) else value  # type: ignore[return-value]  # what graphs have for integers
    # Of NumPy's truth values NumPy before 2.3 makes an index.
    if getattr(value, "ndim", None) != 0 or str(getattr(value, "dtype", "")) in {"bool", "torch.bool"}:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def pair(argument: str, value: Any, *, minimum: int) -> Pair:
    """Return `value` as a (vertical, horizontal) pair of integers of at least `minimum`."""
    several = isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) > 0
    numbers = [whole(v) for v in (value if several else (value, value))]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        fix = f"write {argument}={minimum}, for example"
        fail(argument, "must be an integer or a pair of integers", shown(value), fix)
    if min(numbers[0], numbers[1]) < minimum:
        fail(argument, f"must be at least {minimum}", shown(value), f"use {minimum} or more")
    return numbers[0], numbers[1]


def padding_pair(value: object, kernel: Sequence[int], stride: Pair, dilation: Pair) -> Pair:
    """Return `padding` as a pair; "valid" is none, and "same" what keeps the size of the image at stride 1.

    "same" means what it does in `torch.nn.Conv2d`, where both sides of the image get the same number of zeros.
    """
    if not isinstance(value, str):
        return pair("padding", value, minimum=0)
    if value == "valid":
        return 0, 0
    if value != "same":
        fail("padding", "must be an integer, a pair of integers, 'same' or 'valid'", repr(value), "write padding=1")
    if stride != (1, 1):
        rule = "'same' needs stride 1, as in torch.nn.Conv2d"
        fail("padding", rule, f"stride {stride}", "give the padding in pixels")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if total[0] % 2 or total[1] % 2:
        got = f"a kernel of {kernel[0]}x{kernel[1]} with dilation {dilation}"
        fix = "pad the input by torch.nn.functional.pad and write padding=0"
        fail("padding", "'same' needs a kernel that takes as many zeros on both sides of the image", got, fix)
    return total[0] // 2, total[1] // 2


def memory_format(input: Tensor) -> torch.memory_format:
    """Return channels_last where `input` is stored so and not also contiguous, else contiguous: what `conv2d` keeps."""
    if functorch.is_batchedtensor(input):  # vmap cannot say how its tensors are stored
        return torch.contiguous_format
    channels_last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
