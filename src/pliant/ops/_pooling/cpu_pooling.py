# SPDX-License-Identifier: Apache-2.0
"""Poolings of boxes on the CPU, cut into images, slices of channels and runs of boxes.

Images are channels-last inside, so that the kernels run over channels; those of a group lie together. An image too
large to be copied so at once is taken in slices of channels. That bounds the memory beyond the results. For a few bins
of a large image, the image is not copied, and the kernels run over its planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import memory_format
from pliant.ops._boxes import check_image_index, image_index
from pliant.ops._checks import compute_dtype
from pliant.ops._native.library import TYPES, Pooling, load
from pliant.ops._native.memory import Channels, Scratch, pointer, transpose
from pliant.ops._pooling.bins import Bins, Kernels

IMAGE_BYTES = 32 << 20  # of the channels-last copy of one slice of an image, and of its gradient
PRODUCT_BYTES = 16 << 20  # of the sums that one call of the backward kernel writes
PIXELS_PER_BIN = 6  # above which transposing an image does not pay; measured at 256 channels
UNIT = 64  # channels that the kernel sums over at once: kUnit of cpu_pool.h


class CpuPooling:
    """One call's image and bins."""

    def __init__(self, input: Tensor, bins: Bins) -> None:
        check_image_index(bins.rois, input.shape[0])
        self.input, self.bins = input, bins
        self.N, self.C, self.H, self.W = input.shape
        self.cells = bins.groups * bins.groups
        self.dtype = compute_dtype(input)
        self.threads = torch.get_num_threads()
        self.channels_last = memory_format(input) == torch.channels_last
        library = load()
        assert library is not None, "registered only where the library is loaded"
        self.native: Any = library.kernels
        self.scratch = Scratch()
        self.sides, self.shift, self.mask = (
            None if t is None else t.to(self.dtype).contiguous() for t in (bins.sides, bins.shift, bins.mask)
        )

    @property
    def reads_planes(self) -> bool:
        """Return whether the image is read as planes of pixels.

        Vectors over channels are faster, but an image must be transposed for them, which does not pay for few bins.
        """
        R, (Ph, Pw) = self.bins.rois.shape[0], self.bins.size
        return self.input.is_contiguous() and R * Ph * Pw * PIXELS_PER_BIN < self.N * self.H * self.W

    @property
    def reads_in_place(self) -> bool:
        """Return whether the image is read where it lies."""
        return self.reads_planes or (self.channels_last and self.cells == 1)

    def boxes(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each image's number and those of its boxes, in their order."""
        image, _ = image_index(self.bins.rois, self.N)
        for n in range(self.N):
            yield n, (image == n).nonzero().flatten()

    def slices(self, *, copies: bool) -> list[Channels]:
        """Return the slices of channels: one, unless the image or its gradient must be copied and is large."""
        limit = max(1, self.bins.outputs)
        if copies:
            limit = max(1, IMAGE_BYTES // max(1, self.H * self.W * self.cells * self.dtype.itemsize))
            limit -= limit % UNIT if limit > UNIT else 0
        return [Channels(c, min(self.bins.outputs, c + limit)) for c in range(0, self.bins.outputs, limit)]

    def cell(self, maps: Tensor, n: int, s: Channels, cell: int) -> Tensor:
        """View channels `s` of one group of image n of (N, C, H, W) `maps`: (channels, H, W)."""
        maps_of_cells: Tensor = maps[n].unflatten(0, (self.bins.outputs, self.cells))
        return maps_of_cells[s.begin : s.end, cell]

    def image(self, n: int, s: Channels) -> Tensor:
        """Return channels `s` of image n as (H*W, groups, channels), or the view of them that lies so."""
        if self.reads_in_place:
            return self.input[n, s.begin * self.cells :]
        image = self.scratch.take("image", (self.H * self.W, self.cells, s.width), self.input.dtype)
        for i in range(self.cells):
            transpose(self.native, self.cell(self.input, n, s, i).flatten(1)[None], image[None, :, i], self.threads)
        return image

    def pixel_stride(self, s: Channels, in_place: bool) -> int:
        """Return the elements between neighbouring pixels of an image, or of its copy."""
        if self.reads_planes:
            return 1
        return self.C if in_place else self.cells * s.width

    def describe(self, s: Channels, boxes: Tensor) -> Pooling:
        """Return the C struct of a call."""
        bins = self.bins
        return Pooling(
            height=self.H,
            width=self.W,
            pixel_stride=self.pixel_stride(s, self.reads_in_place),
            channel_stride=self.cells * self.H * self.W if self.reads_planes else 1,
            groups=bins.groups,
            group_stride=self.H * self.W if self.reads_planes else s.width,
            bins=bins.size,
            rule=bins.rule,
            outputs=bins.outputs,
            class_channels=bins.outputs // bins.classes,
            channel_begin=s.begin,
            channels=s.width,
            boxes=boxes.shape[0],
            threads=self.threads,
        )

    def arguments(self, s: Channels, image: Tensor, boxes: Tensor) -> tuple[Any, ...]:
        """Return the arguments that both kernels begin with."""
        tensors = (self.sides, self.shift, self.mask)
        head = (self.describe(s, boxes), TYPES[image.dtype], image.data_ptr(), boxes.data_ptr())
        return (*head, *(pointer(t) for t in tensors))


def pool(input: Tensor, bins: Bins) -> Tensor:
    """Return the mean of each bin, (R, outputs, Ph, Pw), contiguous and of input's type."""
    problem = CpuPooling(input, bins)
    output = torch.empty(bins.rois.shape[0], bins.outputs, *bins.size, dtype=input.dtype)
    for n, boxes in problem.boxes():
        for s in problem.slices(copies=not problem.reads_in_place) if boxes.numel() else ():
            image = problem.image(n, s)
            _check(problem.native.pool(*problem.arguments(s, image, boxes), output.data_ptr()))
    return output


def _check(status: int) -> None:
    if status:
        raise MemoryError("pliant.ops: no memory for the bins that are pooled in the cache")


class _Backward:
    """The results of a backward pass, allocated where they are needed."""

    def __init__(self, problem: CpuPooling, needs_input: bool, needs_products: bool) -> None:
        self.problem, bins = problem, problem.bins
        self.input: Tensor | None = None
        self.products: Tensor | None = None
        if needs_input:
            self.input = torch.empty_like(problem.input, memory_format=memory_format(problem.input))
        if needs_products:
            self.products = torch.zeros(bins.rois.shape[0], bins.classes, *bins.size, 5, dtype=problem.dtype)
        self.writes_in_place = problem.reads_in_place and problem.input.dtype == problem.dtype

    def image(self, n: int, s: Channels) -> Tensor | None:
        """Return memory that is zero to add an image's gradient to."""
        if self.input is None:
            return None
        if self.writes_in_place:
            return self.input[n, s.begin * self.problem.cells : s.end * self.problem.cells].zero_()
        pixels = self.problem.H * self.problem.W
        shape = (
            (s.width, self.problem.cells, pixels)
            if self.problem.reads_planes
            else (pixels, self.problem.cells, s.width)
        )
        return self.problem.scratch.take("grad_image", shape, self.problem.dtype).zero_()

    def store_image(self, n: int, s: Channels, grad_image: Tensor | None) -> None:
        """Write an image's gradient that was added up in memory of its own."""
        problem = self.problem
        if self.input is None or grad_image is None or self.writes_in_place:
            return
        for i in range(problem.cells):
            target = problem.cell(self.input, n, s, i)
            if problem.reads_planes:
                target.copy_(grad_image[:, i].unflatten(1, (problem.H, problem.W)))
            elif target.is_contiguous() or not problem.channels_last:
                transpose(problem.native, grad_image[None, :, i], target.flatten(1)[None], problem.threads)
            else:
                target.copy_(grad_image[:, i].T.unflatten(1, (problem.H, problem.W)))

    def add_products(self, boxes: Tensor, parts: Tensor) -> None:
        """Add the sums over the channels of a slice, (units, boxes, classes, Ph*Pw, 5), in the order of the units."""
        if self.products is not None:
            total = parts[0]
            for part in parts[1:]:
                total += part
            self.products[boxes] += total.view(-1, *self.products.shape[1:])

    def products_of(self, s: Channels, boxes: int) -> Tensor | None:
        """Return memory that is zero for the sums over the channels of a slice."""
        if self.products is None:
            return None
        bins = self.problem.bins
        units = -(-min(s.width, bins.outputs // bins.classes) // UNIT)
        shape = (units, boxes, bins.classes, bins.size[0] * bins.size[1], 5)
        return self.problem.scratch.take("products", shape, self.problem.dtype).zero_()

    def boxes_at_once(self, s: Channels) -> int:
        """Return for how many boxes the sums over the channels of a slice fit `PRODUCT_BYTES`."""
        one = self.products_of(s, 1)
        return self.problem.bins.rois.shape[0] if one is None else max(1, PRODUCT_BYTES // one.nbytes)


def pool_backward(
    grad: Tensor, input: Tensor, bins: Bins, *, needs_input: bool, needs_products: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of input, and the sums (R, K, Ph, Pw, 5) the other gradients consist of, where needed."""
    if not (needs_input or needs_products):
        return None, None
    problem = CpuPooling(input, bins)
    grad = grad.to(input.dtype).contiguous()
    result = _Backward(problem, needs_input, needs_products)
    for n, boxes in problem.boxes():
        if not boxes.numel():
            if result.input is not None:
                result.input[n].zero_()
            continue
        for s in problem.slices(copies=not result.writes_in_place):
            image, grad_image = problem.image(n, s), result.image(n, s)
            stride = problem.pixel_stride(s, result.writes_in_place)
            for some in boxes.split(result.boxes_at_once(s)):
                products = result.products_of(s, some.shape[0])
                arguments = problem.arguments(s, image, some)
                results = (grad.data_ptr(), pointer(grad_image), stride, pointer(products))
                _check(problem.native.pool_backward(*arguments, *results))
                if products is not None:
                    result.add_products(some, products)
            result.store_image(n, s, grad_image)
    return result.input, result.products


CPU = Kernels(pool, pool_backward)
