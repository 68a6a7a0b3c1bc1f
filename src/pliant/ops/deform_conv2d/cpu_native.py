# SPDX-License-Identifier: Apache-2.0
"""The CPU path: a tile of output positions is sampled natively, multiplied by PyTorch, and forgotten.

Images are channels-last inside, so that the kernels run over channels. An image too large to be copied so at once is
taken in slices of channels, whose products add up. That bounds the memory beyond the result at any image size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._native.library import TYPES, Pair, Tile, load
from pliant.ops.deform_conv2d.cpu_products import (
    add_outer,
    multiply_transposed,
    reproducible,
)

IMAGE_BYTES = 32 << 20  # of the channels-last copy of one slice of an image, and of its gradient
TILE_BYTES = 16 << 20  # of the columns of one tile in the backward pass
MAX_POSITIONS = 2048  # of such a tile
MAX_FUSED_POSITIONS = 1 << 16  # of one call where nothing but offset and mask grows with the number
SLICE_CHANNELS = 64  # of a backward task under deterministic algorithms, whatever the number of threads


@dataclass(frozen=True)
class Slice:
    """Channels [begin, end) of the image: whole weight groups, or a part of one."""

    begin: int
    end: int
    run: int  # channels of one weight group inside the slice

    @property
    def width(self) -> int:
        return self.end - self.begin


class Problem:
    """One call's tensors, cut into images, slices of channels and tiles of output positions."""

    def __init__(
        self, input: Tensor, offset: Tensor, weight: Tensor, geometry: ConvGeometry, mask: Tensor | None
    ) -> None:
        self.input, self.offset, self.weight, self.geometry, self.mask = input, offset, weight, geometry, mask
        self.N, self.C, self.H, self.W = input.shape
        self.O, self.per_group, *self.kernel = weight.shape
        self.K = weight.shape[2] * weight.shape[3]
        self.Ho, self.Wo = offset.shape[2:]
        self.G = offset.shape[1] // (2 * self.K)
        self.groups = self.C // self.per_group
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32  # of all arithmetic
        self.is_depthwise = self.per_group == 1 and self.C == self.O and self.C > 1
        self.threads = torch.get_num_threads()
        self.channels_last = memory_format(input) == torch.channels_last
        functions = load()
        assert functions is not None, "registered only where the library is loaded"
        self.native = functions.functions

    def slices(self, *, copies: bool) -> list[Slice]:
        """Return the slices of channels: one, unless the image or its gradient must be copied and is large."""
        limit = self.C
        if copies:
            limit = max(1, IMAGE_BYTES // max(1, self.H * self.W * self.dtype.itemsize))
            limit -= limit % 16 if limit > 16 else 0
        if limit >= self.per_group:
            step = limit // self.per_group * self.per_group
            return [Slice(c, min(self.C, c + step), self.per_group) for c in range(0, self.C, step)]
        parts = []
        for group in range(0, self.C, self.per_group):
            for c in range(group, group + self.per_group, limit):
                end = min(group + self.per_group, c + limit)
                parts.append(Slice(c, end, end - c))
        return parts

    def tiles(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) runs of at most `most` output positions."""
        P = self.Ho * self.Wo
        for first in range(0, P, most):
            yield first, min(P, first + most)

    def backward_positions(self, s: Slice, shares: int) -> int:
        """Return how many positions' columns, and shares of the gradients of offset and mask, fit `TILE_BYTES`."""
        row = self.K * (s.width + 3 * self.G * shares) * self.dtype.itemsize
        fitting = max(1, min(MAX_POSITIONS, TILE_BYTES // row))
        return fitting - fitting % 64 if fitting > 64 else fitting

    def image(self, n: int, s: Slice) -> Tensor:
        """Return channels `s` of image n as (H, W, channels), in storage type; channels lie side by side."""
        if self.channels_last:
            return self.input[n, s.begin : s.end].permute(1, 2, 0)
        image = torch.empty(self.H, self.W, s.width, dtype=self.input.dtype)
        self.transpose(self.input[n, s.begin : s.end].flatten(1), image.flatten(0, 1))
        return image

    def transpose(self, source: Tensor, target: Tensor) -> None:
        """Set the (X, Y) `target` to the transpose of the (Y, X) `source`; lines of both are contiguous, or made so."""
        if source.dtype != target.dtype:
            target.copy_(source.T)
            return
        source = source if source.stride(1) == 1 else source.contiguous()
        lines = (source.data_ptr(), *source.shape, source.stride(0), target.data_ptr(), target.stride(0))
        self.native.pliant_transpose(*lines, source.itemsize, self.threads)

    def weight_rows(self, s: Slice, dtype: torch.dtype) -> Tensor:
        """Return the weights of slice `s` as (groups, O/groups, K*run), in the order of the columns."""
        O_per_group = self.O // self.groups
        first, last = s.begin // self.per_group, (s.end - 1) // self.per_group + 1
        inside = slice(s.begin % self.per_group, s.begin % self.per_group + s.run)
        w = self.weight[first * O_per_group : last * O_per_group, inside].permute(0, 2, 3, 1)
        return w.reshape(last - first, O_per_group, self.K * s.run).to(dtype).contiguous()

    def packed_weight(self, s: Slice, panel: int) -> Tensor:
        """Return the weights of slice `s` as (groups, panels, K*run, panel), with zeros for outputs past the last."""
        rows = self.weight_rows(s, self.dtype)
        rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % panel))
        return rows.unflatten(1, (-1, panel)).transpose(2, 3).contiguous()

    def outputs(self, s: Slice) -> slice:
        """Return the output channels that slice `s` contributes to."""
        per = self.O // self.groups
        return slice(s.begin // self.per_group * per, ((s.end - 1) // self.per_group + 1) * per)

    def maps(self, tensor: Tensor | None, n: int) -> Tensor | None:
        """Return the maps of image n as (channels, Ho*Wo)."""
        return None if tensor is None else tensor[n].flatten(1)

    def tile(
        self, s: Slice, image: Tensor, first: int, last: int, offset: Tensor, mask: Tensor | None
    ) -> tuple[Tile, Tensor, Tensor | None]:
        """Return the C struct of a tile, and offset and mask of its positions in arithmetic type."""
        o = offset[:, first:last].to(self.dtype)
        m = None if mask is None else mask[:, first:last].to(self.dtype)
        tile = Tile(
            height=self.H,
            width=self.W,
            pixel_stride=image.stride(1) if self.W > 1 or not self.channels_last else self.C,
            channels=s.width,
            run=s.run,
            channel_begin=s.begin,
            offset_group_channels=self.C // self.G,
            out_width=self.Wo,
            first=first,
            count=last - first,
            kernel=tuple(self.kernel),
            stride=self.geometry.stride,
            padding=self.geometry.padding,
            dilation=self.geometry.dilation,
            offset_stride=o.stride(),
            mask_stride=(0, 0) if m is None else m.stride(),
            threads=self.threads,
        )
        return tile, o, m


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _positions(tensor: Tensor, n: int, channels: slice) -> Tensor:
    """View `channels` of image n of a (N, X, Ho, Wo) tensor as (Ho*Wo, channels)."""
    return tensor[n, channels].flatten(1).T


# --- forward -------------------------------------------------------------------------------------------------------


def deform_conv2d_cpu(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
) -> Tensor:
    """Return the deformable convolution of CPU tensors; the equation stands in reference.py."""
    problem = Problem(input, offset, weight, geometry, mask)
    shape = (problem.N, problem.O, problem.Ho, problem.Wo)
    output = torch.empty(shape, dtype=input.dtype, memory_format=memory_format(input))
    run = _depthwise if problem.is_depthwise else _convolve
    for s in problem.slices(copies=not problem.channels_last):
        run(problem, s, bias, output)
    return output


def _convolve(problem: Problem, s: Slice, bias: Tensor | None, output: Tensor) -> None:
    image_type = TYPES[output.dtype]
    weight, outputs = problem.packed_weight(s, problem.native.pliant_deform_conv_panel(image_type)), problem.outputs(s)
    accumulate = s.begin % problem.per_group > 0
    b = None if bias is None or accumulate else bias[outputs].to(problem.dtype).contiguous()
    stride = Pair(problem.O, 1) if problem.channels_last else Pair(1, problem.Ho * problem.Wo)
    for n in range(problem.N):
        image = problem.image(n, s)
        offset, mask = problem.maps(problem.offset, n), problem.maps(problem.mask, n)
        assert offset is not None
        for first, last in problem.tiles(MAX_FUSED_POSITIONS):
            tile, o, m = problem.tile(s, image, first, last, offset, mask)
            status = problem.native.pliant_deform_conv(
                ctypes.byref(tile),
                image_type,
                image.data_ptr(),
                o.data_ptr(),
                _pointer(m),
                weight.data_ptr(),
                problem.O // problem.groups,
                _pointer(b),
                _positions(output, n, outputs)[first:last].data_ptr(),
                ctypes.byref(stride),
                accumulate,
            )
            if status:
                raise MemoryError("pliant.ops.deform_conv2d: no memory for the blocks that are sampled into the cache")


def _sample(problem: Problem, described: tuple[Tile, Tensor, Tensor | None], image: Tensor, columns: Tensor) -> None:
    tile, offset, mask = described
    problem.native.pliant_deform_sample(
        ctypes.byref(tile),
        TYPES[image.dtype],
        image.data_ptr(),
        offset.data_ptr(),
        _pointer(mask),
        columns.data_ptr(),
    )


def _depthwise(problem: Problem, s: Slice, bias: Tensor | None, output: Tensor) -> None:
    weight = _depthwise_weight(problem, s)
    b = None if bias is None else bias[s.begin : s.end].to(problem.dtype).contiguous()
    in_place = problem.channels_last and output.dtype == problem.dtype
    for n in range(problem.N):
        image = problem.image(n, s)
        offset, mask = problem.maps(problem.offset, n), problem.maps(problem.mask, n)
        assert offset is not None
        for first, last in problem.tiles(MAX_POSITIONS):
            target = _positions(output, n, slice(s.begin, s.end))[first:last]
            result = target if in_place else torch.empty(last - first, s.width, dtype=problem.dtype)
            tile, o, m = problem.tile(s, image, first, last, offset, mask)
            problem.native.pliant_deform_depthwise(
                ctypes.byref(tile),
                TYPES[image.dtype],
                image.data_ptr(),
                o.data_ptr(),
                _pointer(m),
                weight.data_ptr(),
                _pointer(b),
                result.data_ptr(),
                problem.C if in_place else s.width,
            )
            if not in_place:
                target.copy_(result)


def _depthwise_weight(problem: Problem, s: Slice) -> Tensor:
    """Return (K, channels) weights in arithmetic type."""
    return problem.weight[s.begin : s.end].flatten(1).T.to(problem.dtype).contiguous()


# --- backward ------------------------------------------------------------------------------------------------------


class Gradients:
    """The five results, allocated where they are needed, and what one tile adds to them."""

    def __init__(self, problem: Problem, needed: Sequence[bool]) -> None:
        self.problem = problem
        self.needs_input, self.needs_offset, self.needs_weight, self.needs_bias, self.needs_mask = needed
        self.needs_samples = self.needs_input or self.needs_offset or self.needs_mask
        self.input = self._zeros(problem.input) if self.needs_input else None
        self.offset = self._empty(problem.offset) if self.needs_offset else None
        self.mask = self._empty(problem.mask) if self.needs_mask and problem.mask is not None else None
        self.weight = problem.weight.new_empty(problem.weight.shape)

    def shares(self, s: Slice) -> int:
        """Return in how many channel slices the backward kernel works, each adding up its own share."""
        fixed = s.width // SLICE_CHANNELS if torch.are_deterministic_algorithms_enabled() else self.problem.threads
        return max(1, min(fixed, s.width // 16))

    @staticmethod
    def _zeros(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=memory_format(tensor)).zero_()

    @staticmethod
    def _empty(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    def image(self, n: int, s: Slice) -> tuple[Tensor, bool]:
        """Return (H, W, channels) to add the image's gradient to, and whether it already is the result."""
        if self.input is not None and self.problem.channels_last and self.input.dtype == self.problem.dtype:
            return self.input[n, s.begin : s.end].permute(1, 2, 0), True
        return torch.zeros(self.problem.H, self.problem.W, s.width, dtype=self.problem.dtype), False

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
    mask: Tensor | None,
    geometry: ConvGeometry,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset, weight, bias and mask of CPU tensors, empty where not needed."""
    problem = Problem(input, offset, weight, geometry, mask)
    gradients = Gradients(problem, needed)
    run = _depthwise_backward if problem.is_depthwise else _columns_backward
    with reproducible():
        if gradients.needs_samples or gradients.needs_weight:
            for s in problem.slices(copies=not problem.channels_last or input.dtype != problem.dtype):
                run(problem, s, grad, gradients)
        bias = grad.sum((0, 2, 3), dtype=problem.dtype).to(weight.dtype) if gradients.needs_bias else None
    results = (gradients.input, gradients.offset, gradients.weight if gradients.needs_weight else None, bias)
    a, b, c, d, e = (torch.empty(0, dtype=input.dtype) if r is None else r for r in (*results, gradients.mask))
    return a, b, c, d, e


def _columns_backward(problem: Problem, s: Slice, grad: Tensor, gradients: Gradients) -> None:
    weight, outputs = problem.weight_rows(s, problem.dtype), problem.outputs(s)
    grad_weight = torch.zeros_like(weight)
    shares = gradients.shares(s)
    buffer = torch.empty(0, dtype=problem.dtype)
    for n in range(problem.N):
        image = problem.image(n, s)
        grad_image, in_place = gradients.image(n, s)
        offset, mask = problem.maps(problem.offset, n), problem.maps(problem.mask, n)
        assert offset is not None
        for first, last in problem.tiles(problem.backward_positions(s, shares)):
            u = _positions(grad, n, outputs)[first:last].to(problem.dtype)  # (T, O)
            columns = buffer.resize_(last - first, problem.K * s.width)
            described = problem.tile(s, image, first, last, offset, mask)
            if gradients.needs_samples:
                multiply_transposed(u, weight, columns)
                _spread(problem, described, image, columns, grad_image, gradients, n, shares, None)
            else:
                _sample(problem, described, image, columns)
            if gradients.needs_weight:
                add_outer(u, columns, grad_weight)
        if gradients.input is not None and not in_place:
            problem.transpose(grad_image.flatten(0, 1), gradients.input[n, s.begin : s.end].flatten(1))
    if gradients.needs_weight:
        _store_weight(problem, s, grad_weight, gradients.weight)


def _store_weight(problem: Problem, s: Slice, rows: Tensor, result: Tensor) -> None:
    """Write the (groups, O/groups, K*run) gradient of slice `s` back in the order of the weight."""
    inside = slice(s.begin % problem.per_group, s.begin % problem.per_group + s.run)
    kh, kw = problem.kernel
    result[problem.outputs(s), inside] = rows.view(-1, kh, kw, s.run).permute(0, 3, 1, 2).to(result.dtype)


def _spread(
    problem: Problem,
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
    head = (ctypes.byref(tile), TYPES[image.dtype], image.data_ptr(), offset.data_ptr(), _pointer(mask))
    if depthwise is None:
        problem.native.pliant_deform_sample_backward(
            *head, columns.data_ptr(), grad_image.data_ptr(), stride, partial.data_ptr(), shares, problem.G
        )
    else:
        weight, grad_weight = (t.data_ptr() for t in depthwise)
        problem.native.pliant_deform_depthwise_backward(
            *head, weight, columns.data_ptr(), grad_image.data_ptr(), stride, grad_weight, partial.data_ptr(), shares,
            problem.G,
        )  # fmt: skip
    if not (gradients.needs_offset or gradients.needs_mask):
        return
    grad_offset = torch.zeros(2 * samples, tile.count, dtype=problem.dtype)
    grad_mask = None if mask is None else torch.zeros(samples, tile.count, dtype=problem.dtype)
    problem.native.pliant_deform_reduce(
        partial.data_ptr(),
        int(problem.dtype == torch.float64),
        shares,
        tile.count,
        samples,
        grad_offset.data_ptr(),
        _pointer(grad_mask),
        problem.threads,
    )
    gradients.add_maps(n, tile.first, tile.first + tile.count, grad_offset, grad_mask, tile.channel_begin > 0)


def _depthwise_backward(problem: Problem, s: Slice, grad: Tensor, gradients: Gradients) -> None:
    weight = _depthwise_weight(problem, s)
    grad_weight = torch.zeros_like(weight)
    shares = gradients.shares(s)
    for n in range(problem.N):
        image = problem.image(n, s)
        grad_image, in_place = gradients.image(n, s)
        offset, mask = problem.maps(problem.offset, n), problem.maps(problem.mask, n)
        assert offset is not None
        for first, last in problem.tiles(problem.backward_positions(s, shares)):
            u = _positions(grad, n, slice(s.begin, s.end))[first:last].to(problem.dtype).contiguous()
            described = problem.tile(s, image, first, last, offset, mask)
            _spread(problem, described, image, u, grad_image, gradients, n, shares, (weight, grad_weight))
        if gradients.input is not None and not in_place:
            problem.transpose(grad_image.flatten(0, 1), gradients.input[n, s.begin : s.end].flatten(1))
    gradients.weight[s.begin : s.end] = grad_weight.T.reshape(-1, 1, *problem.kernel).to(gradients.weight.dtype)
