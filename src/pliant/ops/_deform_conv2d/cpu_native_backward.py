# SPDX-License-Identifier: Apache-2.0
"""The backward pass on the CPU: one native call for some images or a tile gives all gradients, block by block in cache.

Threads share channels, in a way that follows from the shapes alone, so that all sums have the same bits for any number
of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._deform_conv2d import cpu_problem, cpu_products
from pliant.ops._deform_conv2d.cpu_problem import (
    SHARE_BYTES,
    TILE_BYTES,
    ChannelSlice,
    CpuConvolution,
    TileArguments,
    check_memory,
    positions,
)
from pliant.ops._native.library import TYPES, ConvGradients, Tile
from pliant.ops._native.memory import pointer

BLOCK = 192  # positions that the kernel works on at a time: kBackwardRows of cpu_backward.h
MAX_POSITIONS = 1 << 16  # of one call
OWN_BYTES = 16 << 20  # of images' gradient that threads add up in memory of their own before


class ImageGradient(NamedTuple):
    """Where a kernel puts the gradient of some images, (images, H, W, channels)."""

    target: Tensor | None
    memory: Tensor | None  # to add up in before, if the target is then written once
    is_result: bool


class Gradients:
    """The five results, allocated where they are needed."""

    def __init__(self, problem: CpuConvolution, needed: Sequence[bool], slices: list[ChannelSlice]) -> None:
        self.problem = problem
        self.needs_input, self.needs_offset, self.needs_weight, self.needs_bias, self.needs_mask = needed
        self.input: Tensor | None = None
        if self.needs_input:
            form = memory_format(problem.input)
            self.input = torch.empty(problem.input.shape, dtype=problem.input.dtype, memory_format=form)
        # Several slices add up: in arithmetic type, for the sum in half precision would be rounded for each.
        cut = len(slices) > 1
        self.offset = self._maps(problem.offset, cut) if self.needs_offset else None
        self.mask = self._maps(problem.mask, cut) if self.needs_mask and problem.mask is not None else None
        self.weight = problem.weight.new_empty(problem.weight.shape) if self.needs_weight else None

    def _maps(self, tensor: Tensor, cut: bool) -> Tensor:
        half = tensor.dtype.itemsize < self.problem.dtype.itemsize
        return torch.empty(tensor.shape, dtype=self.problem.dtype if cut and half else tensor.dtype)

    def image(self, n: slice, s: ChannelSlice, most: int) -> ImageGradient:
        """Return what is said of the images' gradient to the kernel, which is called for `most` positions at most."""
        problem = self.problem
        if self.input is None:
            return ImageGradient(None, None, is_result=True)
        result = self.input[n, s.begin : s.end].permute(0, 2, 3, 1)
        in_place = result.dtype == problem.dtype and (problem.channels_last or s.width == 1)
        memory = self._image_memory(result.shape, s, most, in_place)
        if memory is not None:
            return ImageGradient(result, memory, is_result=True)
        if in_place:
            return ImageGradient(result.zero_(), None, is_result=True)
        return ImageGradient(problem.scratch.take("grad_image", result.shape, problem.dtype).zero_(), None, False)

    def _image_memory(self, shape: Sequence[int], s: ChannelSlice, most: int, in_place: bool) -> Tensor | None:
        """Return memory to add up images' gradient in, where it is small and one call has all of an image.

        The kernel then writes it in the order and type of the result. Where it could add to the result itself, this is
        worth while only if threads would wait there for each other.
        """
        problem, positions_of_image = self.problem, self.problem.Ho * self.problem.Wo
        units = s.width if problem.is_depthwise else problem.shares(s)
        wanted = not in_place or min(problem.threads, units) > 1
        limit = OWN_BYTES if in_place else cpu_problem.IMAGE_BYTES
        if wanted and math.prod(shape) * problem.dtype.itemsize <= limit and 0 < positions_of_image <= most:
            return problem.scratch.take("image_memory", shape, problem.dtype)
        return None

    def store_image(self, n: slice, s: ChannelSlice, grad_image: Tensor | None) -> None:
        """Write images' gradient that was added up elsewhere."""
        if self.input is not None and grad_image is not None:
            self.problem.transpose(grad_image.flatten(1, 2), self.input[n, s.begin : s.end].flatten(2))

    def describe(self, tile: Tile, n: slice, s: ChannelSlice, u: Tensor, image: ImageGradient) -> ConvGradients:
        """Return the C struct of a tile's gradients, without that of the weight."""
        problem, last = self.problem, tile.first + tile.count
        o, m = (None if t is None else t[n].flatten(2)[:, :, tile.first : last] for t in (self.offset, self.mask))
        result = ConvGradients(
            grad=u.data_ptr(),
            grad_stride=u.stride()[:2],
            image=pointer(image.target),
            image_memory=pointer(image.memory),
            offset=pointer(o),
            mask=pointer(m),
            offset_type=TYPES[(problem.offset if o is None else o).dtype],
            mask_type=TYPES[(problem.offset if m is None else m).dtype],
            map_stride=problem.Ho * problem.Wo,
            accumulate=int(s.begin > 0),
        )
        if image.target is not None:
            result.image_stride, _, result.pixel_stride, result.channel_stride = image.target.stride()
        if o is not None or m is not None:
            shape = (problem.shares(s), 3, problem.G * problem.K, tile.images * tile.count)
            result.shares = problem.scratch.take("shares", shape, problem.dtype).data_ptr()
        return result


def deform_conv2d_cpu_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of input, offset, weight, bias and mask of CPU tensors, empty where not needed."""
    problem = CpuConvolution(input, offset, weight, geometry, mask, backward=True)
    slices = problem.slices()
    gradients = Gradients(problem, needed, slices)
    run = _depthwise_backward if problem.is_depthwise else _convolution_backward
    if any(needed[i] for i in (0, 1, 2, 4)):
        for s in slices:
            run(problem, s, grad, gradients)
    bias = _sum_of_positions(grad, problem.dtype).to(weight.dtype) if gradients.needs_bias else None
    offset_sum, mask_sum = (
        None if result is None or like is None else result.to(like.dtype)
        for result, like in ((gradients.offset, offset), (gradients.mask, mask))
    )
    results = (gradients.input, offset_sum, gradients.weight, bias, mask_sum)
    return tuple(torch.empty(0, dtype=input.dtype) if r is None else r for r in results)


def _sum_of_positions(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the gradient of the bias. PyTorch divides a sum among threads only where it is the one result."""
    return grad.sum((0, 2, 3), dtype=dtype) if grad.shape[1] > 1 else grad.sum(3, dtype=dtype).sum((0, 2))


def _upstream(problem: CpuConvolution, grad: Tensor, n: slice, channels: slice, first: int, last: int) -> Tensor:
    """Return the gradient of a tile's outputs as (images, positions, channels), these side by side, in images' type."""
    u = positions(grad, n, channels)[:, first:last]
    if u.dtype == problem.input.dtype and (u.stride(2) == 1 or u.shape[2] == 1):
        return u
    copy = problem.scratch.take("upstream", u.shape, problem.input.dtype)
    problem.transpose(u.mT, copy)
    return copy


def _most_positions(problem: CpuConvolution, s: ChannelSlice, outputs: slice) -> int:
    """Return how many positions' shares, and gradient of these outputs, are small enough."""
    share = 3 * problem.shares(s) * problem.G * problem.K * problem.dtype.itemsize
    most: int = min(SHARE_BYTES // share, TILE_BYTES // ((outputs.stop - outputs.start) * problem.dtype.itemsize))
    return min(MAX_POSITIONS, max(BLOCK, most - most % BLOCK))


def _tiles(
    problem: CpuConvolution, s: ChannelSlice, grad: Tensor, gradients: Gradients, outputs: slice, most: int
) -> Iterator[tuple[TileArguments, Tensor, ConvGradients]]:
    """Yield what describes each tile: the kernels' first arguments, the gradient of its outputs, and the results."""
    for run in problem.runs(s, most):
        image = gradients.image(run.n, s, most)
        for first, last in problem.tiles(most):
            u = _upstream(problem, grad, run.n, outputs, first, last)
            head = problem.tile(s, run, first, last)
            yield head, u, gradients.describe(head[0], run.n, s, u, image)
        if not image.is_result:
            gradients.store_image(run.n, s, image.target)


def _convolution_backward(problem: CpuConvolution, s: ChannelSlice, grad: Tensor, gradients: Gradients) -> None:
    elsewhere = s.width == problem.C and cpu_products.multiplies_faster(problem)
    weight, outputs = problem.weight_rows(s, problem.dtype), problem.outputs(s)
    rounded = weight[0].to(grad.dtype) if elsewhere else weight
    grad_weight = torch.zeros_like(weight) if gradients.needs_weight else None
    most = cpu_products.most_positions(problem) if elsewhere else _most_positions(problem, s, outputs)
    for head, u, result in _tiles(problem, s, grad, gradients, outputs, most):
        if elsewhere:
            total = None if grad_weight is None else grad_weight[0]
            cpu_products.columns_backward(problem, head, u, rounded, result, total)
            continue
        result.weight = pointer(grad_weight)
        outputs_of_group = problem.O // problem.groups
        check_memory(problem.native.deform_conv_backward(*head, weight.data_ptr(), outputs_of_group, result))
    if grad_weight is not None and gradients.weight is not None:
        _store_weight(problem, s, grad_weight, gradients.weight)


def _store_weight(problem: CpuConvolution, s: ChannelSlice, rows: Tensor, result: Tensor) -> None:
    """Write the (groups, O/groups, K*run) gradient of slice `s` back in the order of the weight."""
    inside = slice(s.begin % problem.per_group, s.begin % problem.per_group + s.run)
    kh, kw = problem.kernel
    result[problem.outputs(s), inside] = rows.view(-1, kh, kw, s.run).permute(0, 3, 1, 2).to(result.dtype)


def _depthwise_backward(problem: CpuConvolution, s: ChannelSlice, grad: Tensor, gradients: Gradients) -> None:
    weight, outputs = problem.depthwise_weight(s), slice(s.begin, s.end)
    grad_weight = torch.zeros_like(weight) if gradients.needs_weight else None
    most = _most_positions(problem, s, outputs)
    for head, _, result in _tiles(problem, s, grad, gradients, outputs, most):
        result.weight = pointer(grad_weight)
        check_memory(problem.native.deform_depthwise_backward(*head, weight.data_ptr(), result))
    if grad_weight is not None and gradients.weight is not None:
        gradients.weight[s.begin : s.end] = grad_weight.T.reshape(-1, 1, *problem.kernel).to(gradients.weight.dtype)
