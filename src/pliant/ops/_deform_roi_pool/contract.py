# SPDX-License-Identifier: Apache-2.0
"""The operator `pliant::deform_roi_pool`: schema, fake, autograd, vmap, and who serves which device.

Each device's function is registered here and nowhere else; availability is registration. Autocast has no rule, since
there is nothing to cast: the operator multiplies no matrices, gives the type of `input`, and computes in float32 or
wider. `rois` come in float32 or float64, as `pliant.ops._boxes.as_rois` makes them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import memory_format
from pliant.ops import _backends
from pliant.ops._boxes import check_image_index
from pliant.ops._deform_roi_pool.kernel_calls import pool_backward_by, pool_by
from pliant.ops._deform_roi_pool.reference import Pooling, deform_roi_pool_reference, samples_per_box
from pliant.ops._deform_roi_pool.reference_backward import deform_roi_pool_reference_backward
from pliant.ops._dispatch import as_their_arguments, only_needed, second_derivatives, vmap_by_element
from pliant.ops._roi_samples import part, pieces

FORWARD = "pliant::deform_roi_pool"
BACKWARD = "pliant::deform_roi_pool_backward"
_ARGUMENTS = "Tensor input, Tensor rois, Tensor? offset, Tensor? mask"
_ATTRIBUTES = "int[2] output_size, float spatial_scale, int sampling_ratio, float gamma"

torch.library.define(FORWARD, f"({_ARGUMENTS}, {_ATTRIBUTES}) -> Tensor")
# Always four results (input, rois, offset, mask), so that no result is optional; unneeded ones are empty.
torch.library.define(
    BACKWARD, f"(Tensor grad, {_ARGUMENTS}, {_ATTRIBUTES}, bool[4] needed) -> (Tensor, Tensor, Tensor, Tensor)"
)

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def _four(gradients: Sequence[Tensor], needed: Sequence[bool]) -> Gradients:
    a, b, c, d = only_needed(gradients, needed)
    return a, b, c, d


# --- any device: the reference -------------------------------------------------------------------------------------


def forward_reference(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """Serve the forward of any device by the reference, a few boxes at a time."""
    _backends.warn_reference("deform_roi_pool", input.device)
    check_image_index(rois, input.shape[0])
    pooling = Pooling.of(output_size, spatial_scale, sampling_ratio, gamma)
    output = input.new_empty(rois.shape[0], input.shape[1], *pooling.output_size)
    for boxes, channels in _pieces(input, rois, pooling):
        output[boxes, channels] = deform_roi_pool_reference(
            input[:, channels], rois[boxes], part(offset, boxes), part(mask, boxes), pooling
        )
    return output


def backward_reference(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    needed: Sequence[bool],
) -> Gradients:
    """Serve the backward of any device in closed form, a few boxes at a time."""
    check_image_index(rois, input.shape[0])
    pooling = Pooling.of(output_size, spatial_scale, sampling_ratio, gamma)
    wide = rois.dtype
    g_input = torch.zeros(input.shape, dtype=wide, device=input.device)
    g_rois = torch.zeros_like(rois)
    g_offset, g_mask = (grad.new_empty(0) if t is None else torch.zeros_like(t, dtype=wide) for t in (offset, mask))
    for boxes, channels in _pieces(input, rois, pooling):
        o, m = part(offset, boxes), part(mask, boxes)
        found = deform_roi_pool_reference_backward(
            grad[boxes, channels].to(wide), input[:, channels].to(wide), rois[boxes], o, m, pooling
        )
        g_input[:, channels] += found[0]
        g_rois[boxes] += found[1]
        if offset is not None:
            g_offset[boxes] += found[2]
        if mask is not None:
            g_mask[boxes] += found[3]
    g_input = g_input.contiguous(memory_format=memory_format(input))
    return _four(as_their_arguments((g_input, g_rois, g_offset, g_mask), (input, rois, offset, mask)), needed)


def _pieces(input: Tensor, rois: Tensor, pooling: Pooling) -> Iterator[tuple[slice, slice]]:
    samples = samples_per_box(rois, (input.shape[2], input.shape[3]), pooling)
    return pieces(rois.shape[0], input.shape[1], samples, split_channels=True)


torch.library.impl(FORWARD, "CompositeExplicitAutograd")(forward_reference)
torch.library.impl(BACKWARD, "CompositeExplicitAutograd")(backward_reference)


# --- CPU: the native library, where it was built -------------------------------------------------------------------

HAS_NATIVE = _backends.native_library() is not None

if HAS_NATIVE:
    from pliant.ops._pooling.cpu_pooling import CPU

    torch.library.impl(FORWARD, "CPU")(functools.partial(pool_by, CPU))
    torch.library.impl(BACKWARD, "CPU")(functools.partial(pool_backward_by, CPU))


# --- CUDA and ROCm: Triton, imported at the first call, or the reference where it cannot serve -----------------------


def forward_cuda(*arguments: Any) -> Tensor:
    """Serve the forward of a GPU."""
    if _backends.why_no_triton(arguments[0].device) is not None:
        return forward_reference(*arguments)  # which says so once
    from pliant.ops._pooling.gpu_pooling import GPU

    return pool_by(GPU, *arguments)


def backward_cuda(*arguments: Any) -> Gradients:
    """Serve the backward of a GPU."""
    if _backends.why_no_triton(arguments[1].device) is not None:
        return backward_reference(*arguments)
    from pliant.ops._pooling.gpu_pooling import GPU

    return pool_backward_by(GPU, *arguments)


torch.library.impl(FORWARD, "CUDA")(forward_cuda)
torch.library.impl(BACKWARD, "CUDA")(backward_cuda)


# --- shapes without data -------------------------------------------------------------------------------------------


@torch.library.register_fake(FORWARD)
def forward_fake(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """Return an empty tensor of the forward's shape and type, contiguous."""
    return input.new_empty(rois.shape[0], input.shape[1], *output_size)


@torch.library.register_fake(BACKWARD)
def backward_fake(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
    needed: Sequence[bool],
) -> Gradients:
    """Return empty tensors of the gradients' shapes, types and memory formats."""
    g_input = torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    rest = (grad.new_empty(0) if t is None else t.new_empty(t.shape) for t in (rois, offset, mask))
    return _four((g_input, *rest), needed)


# --- autograd ------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, offset, mask, *ctx.attributes = inputs
    ctx.save_for_backward(input, rois, offset, mask)


def _forward_vjp(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = list(ctx.needs_input_grad[:4])
    results = torch.ops.pliant.deform_roi_pool_backward(grad, *ctx.saved_tensors, *ctx.attributes, needed)
    return (*(g if n else None for g, n in zip(results, needed, strict=True)), None, None, None, None)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
    grad, input, rois, offset, mask, *ctx.attributes, ctx.needed = inputs
    ctx.save_for_backward(grad, input, rois, offset, mask)


def _backward_vjp(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *tensors = ctx.saved_tensors
    pooling = Pooling.of(*ctx.attributes)

    def pool(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        return deform_roi_pool_reference(input, rois, offset, mask, pooling)

    return (*second_derivatives(pool, grad, tensors, ctx.needed, grads), None, None, None, None, None)


torch.library.register_autograd(FORWARD, _forward_vjp, setup_context=_save)
torch.library.register_autograd(BACKWARD, _backward_vjp, setup_context=_save_backward)


# --- vmap ----------------------------------------------------------------------------------------------------------

torch.library.register_vmap(FORWARD, vmap_by_element(torch.ops.pliant.deform_roi_pool))
torch.library.register_vmap(BACKWARD, vmap_by_element(torch.ops.pliant.deform_roi_pool_backward))
