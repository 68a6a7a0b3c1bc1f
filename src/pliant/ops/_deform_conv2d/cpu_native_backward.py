# SPDX-License-Identifier: Apache-2.0
"""The backward pass on the CPU: PyTorch multiplies a tile's gradient back to columns, one native pass does the rest.

That pass reads each sample's pixels once for everything: the gradients of image, offset and mask, and the columns
themselves, which take the place of their gradient and are then multiplied for the gradient of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._deform_conv2d.cpu_problem import ChannelSlice, CpuConvolution, positions
from pliant.ops._deform_conv2d.cpu_products import add_outer, multiply_transposed, reproducible
from pliant.ops._native.library import TYPES, Tile
from pliant.ops._native.memory import pointer

SLICE_CHANNELS = 64  # of a share of the work under deterministic algorithms, whatever the number of threads


class Gradients:
    """The five results, allocated where they are needed, and what one tile adds to them."""

    def __init__(self, problem: CpuConvolution, needed: Sequence[bool]) -> None:
        self.problem = problem
        self.needs_input, self.needs_offset, self.needs_weight, self.needs_bias, self.needs_mask = needed
        self.needs_samples = self.needs_input or self.needs_offset or self.needs_mask
        self.input = self._zeros(problem.input) if self.needs_input else None
        self.slices = problem.slices(copies=not problem.channels_last or problem.input.dtype != problem.dtype)
        self.offset = self._empty(problem.offset) if self.needs_offset else None
        self.mask = self._empty(problem.mask) if self.needs_mask and problem.mask is not None else None
        self.weight = problem.weight.new_empty(problem.weight.shape)

    def shares(self, s: ChannelSlice) -> int:
        """Return in how many channel slices the backward kernel works, each adding up its own share."""
        fixed = s.width // SLICE_CHANNELS if torch.are_deterministic_algorithms_enabled() else self.problem.threads
        return max(1, min(fixed, s.width // 16))

    @staticmethod
    def _zeros(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=memory_format(tensor)).zero_()

    def _empty(self, tensor: Tensor) -> Tensor:
        """Return memory for the gradient of a map: wider than the map where several slices add up to it."""
        dtype = tensor.dtype if len(self.slices) == 1 else torch.promote_types(tensor.dtype, self.problem.dtype)
        return torch.empty(tensor.shape, dtype=dtype)

    def image(self, n: int, s: ChannelSlice) -> tuple[Tensor, bool]:
        """Return (H, W, channels) to add the image's gradient to, and whether it already is the result."""
        if self.input is not None and self.problem.lies_as_read(s) and self.input.dtype == self.problem.dtype:
            return self.input[n, s.begin : s.end].permute(1, 2, 0), True
        shape = (self.problem.H, self.problem.W, s.width)
        return self.problem.scratch.take("grad_image", shape, self.problem.dtype).zero_(), False

    def store_image(self, n: int, s: ChannelSlice, grad_image: Tensor) -> None:
        """Write an image's gradient that was added up in memory of its own, where it is needed."""
        if self.input is not None:
            self.problem.transpose(grad_image.flatten(0, 1), self.input[n, s.begin : s.end].flatten(1))

    def add_maps(self, n: int, first: int, last: int, offset: Tensor, mask: Tensor | None, accumulate: bool) -> None:
        """Store a tile's gradients of offset and mask, (channels, positions), or add them to the slices before."""
        for result, part in ((self.offset, offset), (self.mask, mask)):
            if result is not None and part is not None:
                target = result[n].flatten(1)[:, first:last]
                target.add_(part) if accumulate else target.copy_(part)


def deform_conv2d_cpu_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset, weight, bias and mask of CPU tensors, empty where not needed."""
    problem = CpuConvolution(input, offset, weight, geometry, mask)
    gradients = Gradients(problem, needed)
    run = _depthwise_backward if problem.is_depthwise else _columns_backward
    with reproducible():
        if gradients.needs_samples or gradients.needs_weight:
            for s in gradients.slices:
                run(problem, s, grad, gradients)
        bias = grad.sum((0, 2, 3), dtype=problem.dtype).to(weight.dtype) if gradients.needs_bias else None
    of_offset, of_mask = (
        None if g is None or t is None else g.to(t.dtype)
        for g, t in ((gradients.offset, offset), (gradients.mask, mask))
    )
    results = (gradients.input, of_offset, gradients.weight if gradients.needs_weight else None, bias, of_mask)
    a, b, c, d, e = (torch.empty(0, dtype=input.dtype) if r is None else r for r in results)
    return a, b, c, d, e


def _sample(
    problem: CpuConvolution, described: tuple[Tile, Tensor, Tensor | None], image: Tensor, columns: Tensor
) -> None:
    tile, offset, mask = described
    problem.native.deform_sample(
        tile,
        TYPES[image.dtype],
        image.data_ptr(),
        offset.data_ptr(),
        pointer(mask),
        columns.data_ptr(),
    )


def _columns_backward(problem: CpuConvolution, s: ChannelSlice, grad: Tensor, gradients: Gradients) -> None:
    weight, outputs = problem.weight_rows(s, problem.dtype), problem.outputs(s)
    grad_weight = torch.zeros_like(weight)
    shares = gradients.shares(s)
    for n in range(problem.N):
        image = problem.image(n, s)
        grad_image, in_place = gradients.image(n, s)
        offset, mask = problem.maps(n)
        for first, last in problem.tiles(problem.backward_positions(s, shares)):
            u = positions(grad, n, outputs)[first:last].to(problem.dtype)  # (T, O)
            columns = problem.scratch.take("columns", (last - first, problem.K * s.width), problem.dtype)
            described = problem.tile(s, image, first, last, offset, mask)
            if gradients.needs_samples:
                multiply_transposed(u, weight, columns)
                _spread(problem, described, image, columns, grad_image, gradients, n, shares, None)
            else:
                _sample(problem, described, image, columns)
            if gradients.needs_weight:
                add_outer(u, columns, grad_weight)
        if not in_place:
            gradients.store_image(n, s, grad_image)
    if gradients.needs_weight:
        _store_weight(problem, s, grad_weight, gradients.weight)


def _store_weight(problem: CpuConvolution, s: ChannelSlice, rows: Tensor, result: Tensor) -> None:
    """Write the (groups, O/groups, K*run) gradient of slice `s` back in the order of the weight."""
    inside = slice(s.begin % problem.per_group, s.begin % problem.per_group + s.run)
    kh, kw = problem.kernel
    result[problem.outputs(s), inside] = rows.view(-1, kh, kw, s.run).permute(0, 3, 1, 2).to(result.dtype)


def _spread(
    problem: CpuConvolution,
    described: tuple[Tile, Tensor, Tensor | None],
    image: Tensor,
    columns: Tensor,
    grad_image: Tensor,
    gradients: Gradients,
    n: int,
    shares: int,
    depthwise: tuple[Tensor, Tensor] | None,
) -> None:
    """Turn the columns' gradient into those of image, offset and mask, and the columns' gradient into the columns.

    For a depthwise convolution `columns` is the gradient of the output, and `depthwise` its weight and their gradient.
    """
    tile, offset, mask = described
    samples = problem.G * problem.K
    partial = torch.empty(shares, tile.count, samples, 3, dtype=problem.dtype)
    stride = grad_image.stride(1) if problem.W > 1 or grad_image.is_contiguous() else problem.C
    head = (tile, TYPES[image.dtype], image.data_ptr(), offset.data_ptr(), pointer(mask))
    if depthwise is None:
        problem.native.deform_sample_backward(
            *head, columns.data_ptr(), grad_image.data_ptr(), stride, partial.data_ptr(), shares, problem.G
        )
    else:
        weight, grad_weight = (t.data_ptr() for t in depthwise)
        problem.native.deform_depthwise_backward(
            *head, weight, columns.data_ptr(), grad_image.data_ptr(), stride, grad_weight, partial.data_ptr(), shares,
            problem.G,
        )  # fmt: skip
    if not (gradients.needs_offset or gradients.needs_mask):
        return
    grad_offset = torch.zeros(2 * samples, tile.count, dtype=problem.dtype)
    grad_mask = None if mask is None else torch.zeros(samples, tile.count, dtype=problem.dtype)
    problem.native.deform_reduce(
        partial.data_ptr(),
        int(problem.dtype == torch.float64),
        shares,
        tile.count,
        samples,
        grad_offset.data_ptr(),
        pointer(grad_mask),
        problem.threads,
    )
    gradients.add_maps(n, tile.first, tile.first + tile.count, grad_offset, grad_mask, tile.channel_begin > 0)


def _depthwise_backward(problem: CpuConvolution, s: ChannelSlice, grad: Tensor, gradients: Gradients) -> None:
    weight = problem.depthwise_weight(s)
    grad_weight = torch.zeros_like(weight)
    shares = gradients.shares(s)
    for n in range(problem.N):
        image = problem.image(n, s)
        grad_image, in_place = gradients.image(n, s)
        offset, mask = problem.maps(n)
        for first, last in problem.tiles(problem.backward_positions(s, shares)):
            u = positions(grad, n, slice(s.begin, s.end))[first:last].to(problem.dtype).contiguous()
            described = problem.tile(s, image, first, last, offset, mask)
            _spread(problem, described, image, u, grad_image, gradients, n, shares, (weight, grad_weight))
        if not in_place:
            gradients.store_image(n, s, grad_image)
    gradients.weight[s.begin : s.end] = grad_weight.T.reshape(-1, 1, *problem.kernel).to(gradients.weight.dtype)
