# SPDX-License-Identifier: Apache-2.0
"""What both poolings of boxes tell PyTorch's dispatcher: devices, shapes, autograd and vmap, by one function.

Each device's function is registered here and nowhere else; availability is registration. Autocast has no rule, since
there is nothing to cast: a pooling multiplies no matrices, gives the type of `input`, and computes in float32 or
wider. `rois` come in float32 or float64, as `pliant.ops._boxes.as_rois` makes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import memory_format
from pliant.ops import _backends
from pliant.ops._boxes import check_image_index
from pliant.ops._dispatch import (
    Impl,
    check_impl,
    needs_reference,
    only_needed,
    second_derivatives,
    vmap_by_element,
    without_autocast,
)
from pliant.ops._pooling.bins import Bins, Kernels
from pliant.ops._roi_samples import part

Gradients = tuple[Tensor, ...]
HAS_NATIVE = _backends.native_library() is not None


@dataclass(frozen=True)
class PoolingOperator:
    """One pooling operator. Its arguments are (input, rois, offset, mask) and then `attributes`, as in its schemas."""

    name: str
    forward_schema: str  # from "(" on
    backward_schema: str
    gradients: tuple[int, ...]  # which of the four tensors have one, in the order of the backward's results
    pooling: Callable[..., Any]  # (*attributes) to the one value that the functions below take for them
    outputs: Callable[[Tensor, Any], int]  # (input, pooling) to the channels of the result
    pieces: Callable[[Tensor, Tensor, Any], Iterator[tuple[slice, slice]]]  # (input, rois, pooling) to boxes, channels
    reference: Callable[..., Tensor]  # (input, rois, offset, mask, pooling)
    reference_backward: Callable[..., Gradients]  # (grad, input, rois, offset, mask, pooling)
    bins: Callable[..., Bins]  # (input, rois, offset, mask, pooling) to what the kernels average over
    # (sums, bins, offset, pooling) to each gradient but the image's, of the sums that the kernels return
    of_sums: tuple[Callable[[Tensor, Bins, Tensor | None, Any], Tensor], ...]

    def call(
        self, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Any, impl: Impl
    ) -> Tensor:
        """Run the implementation that `impl` means, after the arguments were checked."""
        check_impl(impl, input.device, has_native=HAS_NATIVE)
        if needs_reference(self.name, impl, (input, rois, offset, mask)):
            check_image_index(rois, input.shape[0])
            with without_autocast(input.device.type):
                return self.reference(input, rois, offset, mask, pooling)
        result: Tensor = getattr(torch.ops.pliant, self.name)(input, rois, offset, mask, *pooling)
        return result

    # --- any device: the reference, a few boxes at a time -----------------------------------------------------------

    def forward_reference(
        self, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, *attributes: Any
    ) -> Tensor:
        """Compute the forward pass on any device by the reference."""
        _backends.warn_reference(self.name, input.device)
        check_image_index(rois, input.shape[0])
        pooling = self.pooling(*attributes)
        output = input.new_empty(rois.shape[0], self.outputs(input, pooling), *pooling.output_size)
        for boxes, channels in self.pieces(input, rois, pooling):
            output[boxes, channels] = self.reference(
                input[:, channels], rois[boxes], part(offset, boxes), part(mask, boxes), pooling
            )
        return output

    def backward_reference(
        self, grad: Tensor, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, *others: Any
    ) -> Gradients:
        """Compute the gradients on any device in closed form."""
        *attributes, needed = others
        check_image_index(rois, input.shape[0])
        pooling, wide = self.pooling(*attributes), rois.dtype
        arguments = self.with_gradients(input, rois, offset, mask)
        totals = [
            grad.new_empty(0) if t is None else torch.zeros(t.shape, dtype=wide, device=grad.device) for t in arguments
        ]
        for boxes, channels in self.pieces(input, rois, pooling):
            maps = (part(offset, boxes), part(mask, boxes))
            found = self.reference_backward(
                grad[boxes, channels].to(wide), input[:, channels].to(wide), rois[boxes], *maps, pooling
            )
            totals[0][:, channels] += found[0]
            for total, gradient in zip(totals[1:], found[1:], strict=True):
                if total.numel():
                    total[boxes] += gradient
        totals[0] = totals[0].contiguous(memory_format=memory_format(input))
        typed = [g if t is None else g.to(t.dtype) for g, t in zip(totals, arguments, strict=True)]
        return only_needed(typed, needed)

    def with_gradients(self, *tensors: Tensor | None) -> list[Tensor | None]:
        """Return those of (input, rois, offset, mask) that have gradients."""
        return [tensors[i] for i in self.gradients]

    # --- devices with kernels ---------------------------------------------------------------------------------------

    def forward_by(self, kernels: Kernels, input: Tensor, *others: Any) -> Tensor:
        """Compute the forward pass by the kernels of a device."""
        return kernels.pool(input, self.bins(input, *others[:3], self.pooling(*others[3:])))

    def backward_by(self, kernels: Kernels, grad: Tensor, input: Tensor, *others: Any) -> Gradients:
        """Compute the gradients by the kernels of a device."""
        rois, offset, mask, *attributes, needed = others
        pooling = self.pooling(*attributes)
        bins = self.bins(input, rois, offset, mask, pooling)
        _, *rest = self.with_gradients(input, rois, offset, mask)
        wanted = [need and t is not None for t, need in zip(rest, needed[1:], strict=True)]
        g_input, sums = kernels.pool_backward(grad, input, bins, needs_input=needed[0], needs_products=any(wanted))
        found = [grad.new_empty(0) if g_input is None else g_input]
        for tensor, of_sums, want in zip(rest, self.of_sums, wanted, strict=True):
            if want and tensor is not None and sums is not None:
                found.append(of_sums(sums, bins, offset, pooling).to(tensor.dtype))
            else:
                found.append(grad.new_empty(0))
        return tuple(found)

    def forward_cuda(self, *arguments: Any) -> Tensor:
        """Compute the forward pass on a GPU: by Triton's kernels, imported at the first call, or by the reference."""
        if _backends.why_no_triton(arguments[0].device) is not None:
            return self.forward_reference(*arguments)  # which says so once
        from pliant.ops._pooling.gpu_pooling import GPU

        return self.forward_by(GPU, *arguments)

    def backward_cuda(self, *arguments: Any) -> Gradients:
        """Compute the gradients on a GPU."""
        if _backends.why_no_triton(arguments[1].device) is not None:
            return self.backward_reference(*arguments)
        from pliant.ops._pooling.gpu_pooling import GPU

        return self.backward_by(GPU, *arguments)

    # --- shapes without data ----------------------------------------------------------------------------------------

    def forward_fake(self, input: Tensor, rois: Tensor, *others: Any) -> Tensor:
        """Return an empty tensor of the forward's shape and type, contiguous."""
        pooling = self.pooling(*others[2:])
        return input.new_empty(rois.shape[0], self.outputs(input, pooling), *pooling.output_size)

    def backward_fake(self, grad: Tensor, input: Tensor, *others: Any) -> Gradients:
        """Return empty tensors of the gradients' shapes, types and memory formats."""
        g_input = torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
        _, *rest = self.with_gradients(input, *others[:3])
        empty = [grad.new_empty(0) if t is None else t.new_empty(t.shape) for t in rest]
        return only_needed((g_input, *empty), others[-1])

    # --- autograd ---------------------------------------------------------------------------------------------------

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the backward needs."""
        ctx.save_for_backward(*inputs[:4])
        ctx.attributes = inputs[4:]

    def vjp(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the forward's arguments."""
        needed = [ctx.needs_input_grad[i] for i in self.gradients]
        backward = getattr(torch.ops.pliant, f"{self.name}_backward")
        found = backward(grad, *ctx.saved_tensors, *ctx.attributes, needed)
        gradients: list[Tensor | None] = [None] * (4 + len(ctx.attributes))
        for i, gradient, need in zip(self.gradients, found, needed, strict=True):
            gradients[i] = gradient if need else None
        return tuple(gradients)

    def save_backward(self, ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        """Keep what the second derivatives need."""
        ctx.save_for_backward(*inputs[:5])
        ctx.attributes, ctx.needed = inputs[5:-1], inputs[-1]

    def backward_vjp(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Differentiate the backward through the reference, whose gradients PyTorch itself can differentiate."""
        grad, *tensors = ctx.saved_tensors
        pooling = self.pooling(*ctx.attributes)

        def pool(*differentiable: Tensor | None) -> Tensor:
            arguments = list(tensors)
            for i, tensor in zip(self.gradients, differentiable, strict=True):
                arguments[i] = tensor
            return self.reference(*arguments, pooling)

        of_grad, *found = second_derivatives(pool, grad, self.with_gradients(*tensors), ctx.needed, grads)
        gradients: list[Tensor | None] = [None] * (4 + len(ctx.attributes))
        for i, gradient in zip(self.gradients, found, strict=True):
            gradients[i] = gradient
        return of_grad, *gradients, None


def register(operator: PoolingOperator) -> None:
    """Define the operator and its backward for PyTorch's dispatcher, with their functions for each device."""
    forward, backward = f"pliant::{operator.name}", f"pliant::{operator.name}_backward"
    torch.library.define(forward, operator.forward_schema)
    torch.library.define(backward, operator.backward_schema)
    torch.library.impl(forward, "CompositeExplicitAutograd")(operator.forward_reference)
    torch.library.impl(backward, "CompositeExplicitAutograd")(operator.backward_reference)
    if HAS_NATIVE:
        from pliant.ops._pooling.cpu_pooling import CPU

        torch.library.impl(forward, "CPU")(functools.partial(operator.forward_by, CPU))
        torch.library.impl(backward, "CPU")(functools.partial(operator.backward_by, CPU))
    torch.library.impl(forward, "CUDA")(operator.forward_cuda)
    torch.library.impl(backward, "CUDA")(operator.backward_cuda)
    torch.library.register_fake(forward, operator.forward_fake)
    torch.library.register_fake(backward, operator.backward_fake)
    torch.library.register_autograd(forward, operator.vjp, setup_context=operator.save)
    torch.library.register_autograd(backward, operator.backward_vjp, setup_context=operator.save_backward)
    for name in (operator.name, f"{operator.name}_backward"):
        torch.library.register_vmap(f"pliant::{name}", vmap_by_element(getattr(torch.ops.pliant, name)))
