# SPDX-License-Identifier: Apache-2.0
"""The backward pass on a GPU: PyTorch's libraries do the matrix products, one kernel all that is done per sample.

For each slice of channels and chunk of positions (gpu_plan.py): columns' gradient = grad @ weight; one kernel reads the
pixels of each sample for the gradients of offset and mask and for the columns; weight's gradient += grad^T @ columns;
and another kernel adds up each pixel's gradient from the samples around it, sorted by cell. Nothing there is atomic, so
results are the same bits each time. Small layers scatter the image's gradient with atomics in the first kernel instead,
unless deterministic algorithms are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops import _triton
from pliant.ops._deform_conv2d.gpu_cells import Cells, cells_of
from pliant.ops._deform_conv2d.gpu_plan import BackwardPlan, Chunk, GroupSlice, plan_backward
from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution
from pliant.ops._deform_conv2d.gpu_tiles import GATHER_CHANNELS, GATHER_ROWS, power_of_two, sample_tile
from pliant.ops._deform_conv2d.triton_backward import gather_gradient, sample_backward

# Whether half-precision matrices can be multiplied into float32, which came after the oldest PyTorch supported.
WIDE_RESULTS = torch.version.hip is None and "dtype" in torch.ops.aten.bmm.overloads()


class _Backward:
    """One backward pass: its results, and what a slice of a chunk adds to them."""

    def __init__(self, problem: GpuConvolution, grad: Tensor, needed: Sequence[bool], plan: BackwardPlan) -> None:
        self.problem, self.grad, self.plan = problem, grad, plan
        self.needs_input, needs_offset, self.needs_weight, _, needs_mask = needed
        self.needs_maps = needs_offset or needs_mask
        p = problem
        sliced = plan.slices[0].run < p.C // p.G  # several slices add to one gradient of an offset, in full precision
        types = [p.sum_dtype if sliced else t.dtype for t in (p.offset, p.offset if p.mask is None else p.mask)]
        self.offset = p.offset.new_empty(p.offset.shape, dtype=types[0]) if self.needs_maps else None
        has_mask = self.needs_maps and p.mask is not None
        self.mask = p.offset.new_empty((p.N, p.G * p.K, p.Ho, p.Wo), dtype=types[1]) if has_mask else None
        self.weight = p.weight.new_empty(p.weight.shape) if self.needs_weight else None
        self.input = torch.empty_like(p.input, memory_format=memory_format(p.input)) if self.needs_input else None
        self.scattered: Tensor | None = None
        if self.needs_input and plan.scatter:
            self.scattered = p.image.new_zeros((p.N, p.H, p.W, p.C), dtype=p.sum_dtype)
        self.all_cells: Cells | None = None
        if self.needs_input and not plan.scatter and plan.sorts_once:
            self.all_cells = cells_of(p, Chunk(0, p.M, 0, p.N), 0, p.G)
        # Each chunk writes over the one before: with deterministic algorithms PyTorch fills all memory it hands out.
        self.columns = self._empty_columns() if self.needs_weight else None
        self.grad_columns = self._empty_columns() if self.needs_maps or self.needs_input else None

    def _empty_columns(self) -> Tensor | None:
        """Return memory for the columns of any slice of any chunk, (positions, weight groups, taps * channels)."""
        p = self.problem
        if p.is_depthwise or not self.plan.chunks:
            return None
        s = self.plan.slices[0]  # all are alike, and no chunk is longer than the first
        return p.weight.new_empty((self.plan.chunks[0].count, s.width // s.per_group, p.K * s.per_group))

    def run_slice(self, s: GroupSlice) -> None:
        """Do all that concerns the channels of one slice."""
        p = self.problem
        weight = self._weight_rows(s)
        shape = (p.K, s.width) if p.is_depthwise else weight.shape
        grad_weight = p.weight.new_zeros(shape, dtype=p.sum_dtype) if self.needs_weight else None
        image: Tensor | None = None
        for chunk in self.plan.chunks:
            image = self._run_chunk(s, chunk, weight, grad_weight, image)
        if self.weight is not None and grad_weight is not None:
            self._store_weight(s, grad_weight)

    def _run_chunk(
        self, s: GroupSlice, chunk: Chunk, weight: Tensor, grad_weight: Tensor | None, image: Tensor | None
    ) -> Tensor | None:
        """Do all that concerns a slice of one chunk; return the memory for the image's gradient, to be used again."""
        u = rows_of(self.grad, self._outputs(s), chunk.first, chunk.count)
        grad_columns: Tensor | None = None
        if self.problem.is_depthwise:
            grad_columns = u.contiguous()
        elif self.grad_columns is not None:
            grad_columns = self.grad_columns[: chunk.count]
            products(u, weight, grad_columns)
        columns = self._sample(s, chunk, weight, grad_columns)
        if grad_weight is not None and columns is not None:
            if self.problem.is_depthwise:
                grad_weight += columns.sum(0)
            else:
                add_products(u, columns, grad_weight)
        if self.needs_input and not self.plan.scatter and grad_columns is not None:
            image = self._gather(s, chunk, weight, grad_columns, image)
        return image

    def _outputs(self, s: GroupSlice) -> slice:
        """Return the output channels of the weight groups that slice `s` is part of."""
        p = self.problem
        per = p.O // p.groups
        return slice(s.begin // p.per_group * per, ((s.begin + s.width - 1) // p.per_group + 1) * per)

    def _inside(self, s: GroupSlice) -> slice:
        begin = s.begin % self.problem.per_group
        return slice(begin, begin + s.per_group)

    def _weight_rows(self, s: GroupSlice) -> Tensor:
        """Return the weights as (groups, O/groups, K*channels) of the slice; depthwise (K, channels)."""
        p = self.problem
        if p.is_depthwise:
            return p.weight.flatten(1)[s.begin : s.begin + s.width].T.contiguous()
        rows = p.weight[self._outputs(s), self._inside(s)].permute(0, 2, 3, 1)  # (outputs, kh, kw, channels)
        return rows.reshape(s.width // s.per_group, p.O // p.groups, p.K * s.per_group)

    def _store_weight(self, s: GroupSlice, rows: Tensor) -> None:
        p = self.problem
        assert self.weight is not None
        if p.is_depthwise:
            self.weight.flatten(1)[s.begin : s.begin + s.width] = rows.T.to(p.dtype)
        else:
            gradient = rows.view(-1, p.kh, p.kw, s.per_group).permute(0, 3, 1, 2)
            self.weight[self._outputs(s), self._inside(s)] = gradient.to(p.dtype)

    def _sample(self, s: GroupSlice, chunk: Chunk, weight: Tensor, grad_columns: Tensor | None) -> Tensor | None:
        """Read a chunk's samples; return their columns, or the sums over tiles of them for a depthwise convolution."""
        p = self.problem
        if not (self.needs_maps or self.needs_weight or self.scattered is not None):
            return None
        tile = sample_tile(p.dtype, s.run, scatters=self.scattered is not None)
        tiles = -(-chunk.count // tile.positions)
        columns: Tensor | None = None
        if self.needs_weight and p.is_depthwise:
            columns = p.weight.new_empty((tiles, p.K, s.width), dtype=p.sum_dtype)
        elif self.columns is not None:
            columns = self.columns[: chunk.count]
        _triton.launch(
            sample_backward,
            (tiles * p.K, s.width // s.run),
            p.device,
            *(
                p.image[:, s.begin :],
                p.offset,
                p.mask,
                weight,
                grad_columns,
                columns,
                self.scattered,
                self.offset,
                self.mask,
            ),
            *p.sizes(),
            *p.map_strides(),
            *p.steps(),
            *(chunk.first, chunk.count, s.begin // (p.C // p.G)),
            **p.constants(),
            C=p.C,
            OFFSET_GROUPS=p.G,
            WIDTH=s.width,
            PER_GROUP=s.per_group,
            RUN=s.run,
            DEPTHWISE=p.is_depthwise,
            NEED_MAPS=self.needs_maps,
            NEED_COLUMN=self.needs_weight,
            SCATTER=self.scattered is not None,
            ACCUMULATE=s.begin % (p.C // p.G) > 0,
            BLOCK_M=tile.positions,
            BLOCK_C=tile.channels,
            num_warps=tile.warps,
        )
        return columns

    def _gather(
        self, s: GroupSlice, chunk: Chunk, weight: Tensor, grad_columns: Tensor, image: Tensor | None
    ) -> Tensor:
        """Add up the image's gradient of a slice; return the memory for it, which the next chunk may use again."""
        p = self.problem
        assert self.input is not None
        result = self.input[chunk.image : chunk.image + chunk.images].permute(0, 2, 3, 1)
        result = result[..., s.begin : s.begin + s.width]
        in_place = self.plan.whole_images and memory_format(self.input) == torch.channels_last
        if in_place:
            image = result
        elif image is None or len(image) != chunk.images:
            dtype = p.dtype if self.plan.whole_images else p.sum_dtype
            image = p.image.new_empty((chunk.images, p.H, p.W, s.width), dtype=dtype)
        self._launch_gather(s, chunk, weight, grad_columns, image, stride=p.C if in_place else s.width)
        if not in_place and (chunk.first + chunk.count) % (p.Ho * p.Wo) == 0:
            result.copy_(image)
        return image

    def _launch_gather(
        self, s: GroupSlice, chunk: Chunk, weight: Tensor, grad_columns: Tensor, image: Tensor, stride: int
    ) -> None:
        p = self.problem
        group, groups = s.begin // (p.C // p.G), s.width // s.run
        cells = self.all_cells or cells_of(p, chunk, group, groups)
        block = min(GATHER_CHANNELS, power_of_two(s.run))
        _triton.launch(
            gather_gradient,
            (chunk.images * p.H * p.W, groups, -(-s.run // block)),
            p.device,
            *(grad_columns, weight, cells.order, cells.start, cells.place, image, cells.order.numel(), p.H, p.W),
            *((chunk.first - cells.first) * p.K * cells.groups, chunk.image, cells.image, group - cells.group),
            K=p.K,
            STRIDE=stride,
            WIDTH=s.width,
            PER_GROUP=s.per_group,
            RUN=s.run,
            GROUPS_HERE=cells.groups,
            DEPTHWISE=p.is_depthwise,
            ACCUMULATE=chunk.first % (p.Ho * p.Wo) > 0,
            CT=_triton.compute_type(p.dtype),
            BLOCK_J=GATHER_ROWS,
            BLOCK_C=block,
            num_warps=1,
        )

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of input, offset, weight and mask in the types of their arguments."""
        p = self.problem
        if self.input is not None and self.scattered is not None:
            self.input.copy_(self.scattered.permute(0, 3, 1, 2))
        offset = None if self.offset is None else self.offset.to(p.offset.dtype)
        mask = None if self.mask is None or p.mask is None else self.mask.to(p.mask.dtype)
        return self.input, offset, self.weight, mask


def deform_conv2d_triton_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    mask: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of input, offset, weight, bias and mask of GPU tensors, empty where not needed."""
    problem = GpuConvolution(input, offset, weight, geometry, mask)
    found: tuple[Tensor | None, ...] = (None,) * 4
    if any((needed[0], needed[1], needed[2], needed[4])):
        plan = plan_backward(problem, deterministic=torch.are_deterministic_algorithms_enabled())
        backward = _Backward(problem, grad, needed, plan)
        for s in plan.slices:
            backward.run_slice(s)
        found = backward.results()
    g_bias = grad.sum((0, 2, 3), dtype=problem.sum_dtype).to(weight.dtype) if needed[3] else None
    g_input, g_offset, g_weight, g_mask = found
    results = zip((g_input, g_offset, g_weight, g_bias, g_mask), needed, strict=True)
    return tuple(g if g is not None and need else grad.new_empty(0) for g, need in results)


def rows_of(grad: Tensor, outputs: slice, first: int, count: int) -> Tensor:
    """Return `outputs` of the positions [first, first + count) of a (N, O, Ho, Wo) tensor as (count, outputs)."""
    grad = grad[:, outputs]
    P = grad.shape[2] * grad.shape[3]
    if first % P + count <= P:  # inside one image: a view of a contiguous or channels_last gradient
        return grad[first // P].flatten(1)[:, first % P : first % P + count].T
    images = slice(first // P, (first + count) // P)
    return grad[images].permute(0, 2, 3, 1).reshape(count, -1)


def products(rows: Tensor, weight: Tensor, result: Tensor) -> None:
    """Write rows (T, O) @ weight (groups, O/groups, R) group by group to `result` (T, groups, R)."""
    groups, per_group, _ = weight.shape
    left = rows.reshape(-1, groups, per_group).transpose(0, 1)
    torch.bmm(left, weight, out=result.transpose(0, 1))


def add_products(rows: Tensor, columns: Tensor, total: Tensor) -> None:
    """Add rows (T, O)^T @ columns (T, groups, R) group by group to `total` (groups, O/groups, R) of a wider type."""
    groups, per_group, _ = total.shape
    left = rows.T.reshape(groups, per_group, -1)
    right = columns.transpose(0, 1)
    if rows.dtype == total.dtype:
        total.baddbmm_(left, right)
    elif WIDE_RESULTS and rows.is_cuda:
        total += torch.bmm(left, right, out_dtype=total.dtype)
    else:
        total += torch.bmm(left, right)  # rounds once a chunk
