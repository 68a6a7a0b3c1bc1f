# SPDX-License-Identifier: Apache-2.0
"""Poolings of boxes on a GPU: one kernel for the means, one for what the small gradients consist of, one that scatters.

Nothing waits for the GPU, and all shapes follow from the arguments', so that CUDA graphs can capture a call. The
gradient of the image is added up by atomics, in no fixed order; where deterministic algorithms are asked for, in whole
multiples of a small unit, whose sum is the same in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pliant._geometry import memory_format
from pliant.ops import _triton
from pliant.ops._boxes import image_index
from pliant.ops._checks import compute_dtype
from pliant.ops._pooling.bins import POOL_ALIGNED, Bins, Kernels
from pliant.ops._pooling.triton_pooling import pool_bins, scatter_gradient, sum_products

WORKSPACE_BYTES = 64 << 20  # of the image's gradient, in the type of arithmetic, that is added up at a time
BLOCK_SAMPLES = 4  # samples of a bin that a program reads at once; RoI heads have 2x2
BLOCK_CHANNELS = 128  # channels of a program, at most
FIXED_BITS = 62  # of the sums of the deterministic gradient


class ClassSlice(NamedTuple):
    """Channels [begin, end) of each of the classes [first_class, first_class + classes)."""

    first_class: int
    classes: int
    begin: int
    end: int


class GpuPooling:
    """One call's image and bins, in memory as the kernels read them."""

    def __init__(self, input: Tensor, bins: Bins) -> None:
        self.input, self.bins = input, bins
        self.N, _, self.H, self.W = input.shape
        self.R, self.C, self.cells = bins.rois.shape[0], bins.outputs, bins.groups**2
        self.per_class = bins.outputs // bins.classes
        self.dtype = compute_dtype(input)
        self.planes, exists = image_index(bins.rois, self.N)
        # A box of no image has a side that is not a number, and hence no samples.
        sides = torch.where(exists.view(-1, 1, 1), bins.sides.to(self.dtype), torch.nan)
        self.sides = sides.contiguous()
        self.shift, self.mask = (None if t is None else t.to(self.dtype).contiguous() for t in (bins.shift, bins.mask))
        self.block = min(BLOCK_CHANNELS, max(16, 1 << (self.per_class - 1).bit_length()))

    def image(self) -> Tensor:
        """Return the image as (N, groups, H, W, channels); no copy of a channels_last one without groups."""
        cells = self.input.unflatten(1, (self.C, self.cells))
        image: Tensor = cells.permute(0, 2, 3, 4, 1).contiguous()
        return image

    def constants(self) -> dict[str, Any]:
        """Return what all kernels are compiled for."""
        return {
            "PH": self.bins.size[0],
            "PW": self.bins.size[1],
            "C": self.C,
            "CLASSES": self.bins.classes,
            "GROUPS": self.bins.groups,
            "HAS_SHIFT": self.shift is not None,
            "HAS_MASK": self.mask is not None,
            "ALIGNED": self.bins.rule == POOL_ALIGNED,
            "CT": _triton.compute_type(self.dtype),
            "BLOCK_S": BLOCK_SAMPLES,
            "BLOCK_C": self.block,
            # sixteen bytes of a pixel for each thread, where there are so many
            "num_warps": max(1, min(4, BLOCK_SAMPLES * self.block * self.input.dtype.itemsize // 512)),
        }

    def programs(self, channels: int, classes: int) -> tuple[int, int]:
        """Return the grid of programs for so many channels of so many classes."""
        return self.R * self.bins.size[0] * self.bins.size[1], classes * -(-channels // self.block)

    def slices(self, item_size: int) -> Iterator[ClassSlice]:
        """Yield the slices of the image's gradient that fit the workspace: of one class's channels, or of classes."""
        classes = self.bins.classes
        one = max(1, self.N * self.cells * self.H * self.W * item_size)  # bytes of a channel
        fitting = max(16, WORKSPACE_BYTES // one)
        if classes == 1:
            for begin in range(0, self.C, fitting):
                yield ClassSlice(0, 1, begin, min(self.C, begin + fitting))
            return
        step = max(1, fitting // self.per_class)
        for first in range(0, classes, step):
            yield ClassSlice(first, min(step, classes - first), 0, self.per_class)


def pool(input: Tensor, bins: Bins) -> Tensor:
    """Return the mean of each bin, (R, outputs, Ph, Pw), contiguous and of input's type."""
    p = GpuPooling(input, bins)
    output = torch.empty(p.R, p.C, *bins.size, dtype=input.dtype, device=input.device)
    arguments = (p.image(), p.planes, p.sides, p.shift, p.mask, output, p.H, p.W, p.R)
    _triton.launch(pool_bins, p.programs(p.per_class, bins.classes), input.device, *arguments, **p.constants())
    return output


def pool_backward(
    grad: Tensor, input: Tensor, bins: Bins, *, needs_input: bool, needs_products: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of input, and the sums (R, K, Ph, Pw, 5) the other gradients consist of, where needed."""
    if not (needs_input or needs_products):
        return None, None
    p, grad = GpuPooling(input, bins), grad.contiguous()
    products = _products(p, grad) if needs_products else None
    return _gradient_of_image(p, grad) if needs_input else None, products


def _products(p: GpuPooling, grad: Tensor) -> Tensor:
    bins = p.bins
    products = torch.empty(p.R, bins.classes, *bins.size, 5, dtype=p.dtype, device=grad.device)
    arguments = (p.image(), p.planes, p.sides, p.shift, p.mask, grad, products, p.H, p.W, p.R)
    _triton.launch(sum_products, p.programs(1, bins.classes), grad.device, *arguments, **p.constants())
    return products


def _gradient_of_image(p: GpuPooling, grad: Tensor) -> Tensor:
    deterministic = torch.are_deterministic_algorithms_enabled()
    dtype = torch.int64 if deterministic else p.dtype
    scale = _scale(p, grad) if deterministic else None
    result = torch.empty_like(p.input, memory_format=memory_format(p.input))
    for s in p.slices(dtype.itemsize + (p.dtype.itemsize if deterministic else 0)):  # integers become numbers beside
        width = s.classes * (s.end - s.begin)
        total = torch.zeros(p.N, p.cells, p.H, p.W, width, dtype=dtype, device=grad.device)
        arguments = (p.planes, p.sides, p.shift, p.mask, grad, scale, total, p.H, p.W, p.R)
        part = (s.first_class, s.begin, s.end, width)
        grid = p.programs(s.end - s.begin, s.classes)
        _triton.launch(scatter_gradient, grid, grad.device, *arguments, *part, FIXED=deterministic, **p.constants())
        first = s.first_class * p.per_class + s.begin
        sums = total if scale is None else total / scale
        channels = result.unflatten(1, (p.C, p.cells))[:, first : first + width]
        channels.copy_(sums.permute(0, 4, 1, 2, 3))
    return result


def _scale(p: GpuPooling, grad: Tensor) -> Tensor:
    """Return the power of two in which sums are counted, such that no sum of all bins' gradients overflows.

    What is not finite in `grad` makes it 0 or NaN, and no pixel's gradient finite.
    """
    bins = max(1, p.R * p.bins.size[0] * p.bins.size[1])
    largest = grad.abs().amax().to(p.dtype) if grad.numel() else grad.new_zeros((), dtype=p.dtype)
    if p.mask is not None and p.mask.numel():
        largest = largest * p.mask.abs().amax()
    least = torch.finfo(torch.float32).tiny
    return torch.exp2((FIXED_BITS - 1 - torch.log2(largest.clamp(min=least) * bins)).floor().clamp(max=100))


GPU = Kernels(pool, pool_backward)
