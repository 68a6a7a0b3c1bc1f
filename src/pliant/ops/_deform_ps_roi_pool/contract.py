# SPDX-License-Identifier: Apache-2.0
"""The operator `pliant::deform_ps_roi_pool`: schema, fake, autograd, vmap, and who serves which device.

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
from pliant.ops._deform_ps_roi_pool.kernel_calls import pool_backward_by, pool_by
from pliant.ops._deform_ps_roi_pool.reference import PSPooling, deform_ps_roi_pool_reference
from pliant.ops._deform_ps_roi_pool.reference_backward import deform_ps_roi_pool_reference_backward
from pliant.ops._dispatch import as_their_arguments, only_needed, second_derivatives, vmap_by_element
from pliant.ops._roi_samples import part, pieces

FORWARD = "pliant::deform_ps_roi_pool"
BACKWARD = "pliant::deform_ps_roi_pool_backward"
_ARGUMENTS = "Tensor input, Tensor rois, Tensor? offset, Tensor? mask"
_ATTRIBUTES = (
    "int[2] output_size, int output_channels, int group_size, int[2] part_size, int samples_per_bin, "
    "float spatial_scale, float gamma"
)

torch.library.define(FORWARD, f"({_ARGUMENTS}, {_ATTRIBUTES}) -> Tensor")
# Always three results (input, offset, mask), so that no result is optional; unneeded ones are empty.
torch.library.define(
    BACKWARD, f"(Tensor grad, {_ARGUMENTS}, {_ATTRIBUTES}, bool[3] needed) -> (Tensor, Tensor, Tensor)"
)

Gradients = tuple[Tensor, Tensor, Tensor]


def _three(gradients: Sequence[Tensor], needed: Sequence[bool]) -> Gradients:
    a, b, c = only_needed(gradients, needed)
    return a, b, c


# --- any device: the reference -------------------------------------------------------------------------------------


def forward_reference(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    output_channels: int,
    group_size: int,
    part_size: Sequence[int],
    samples_per_bin: int,
    spatial_scale: float,
    gamma: float,
) -> Tensor:
    """Serve the forward of any device by the reference, a few boxes at a time."""
    _backends.warn_reference("deform_ps_roi_pool", input.device)
    check_image_index(rois, input.shape[0])
    pooling = PSPooling.of(output_size, output_channels, group_size, part_size, samples_per_bin, spatial_scale, gamma)
    output = input.new_empty(rois.shape[0], output_channels, *pooling.output_size)
    for boxes in _pieces(rois, pooling):
        output[boxes] = deform_ps_roi_pool_reference(
            input, rois[boxes], part(offset, boxes), part(mask, boxes), pooling
        )
    return output


def backward_reference(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    output_channels: int,
    group_size: int,
    part_size: Sequence[int],
    samples_per_bin: int,
    spatial_scale: float,
    gamma: float,
    needed: Sequence[bool],
) -> Gradients:
    """Serve the backward of any device in closed form, a few boxes at a time."""
    check_image_index(rois, input.shape[0])
    pooling = PSPooling.of(output_size, output_channels, group_size, part_size, samples_per_bin, spatial_scale, gamma)
    wide = rois.dtype
    g_input = torch.zeros(input.shape, dtype=wide, device=input.device)
    g_offset, g_mask = (grad.new_empty(0) if t is None else torch.zeros_like(t, dtype=wide) for t in (offset, mask))
    for boxes in _pieces(rois, pooling):
        o, m = part(offset, boxes), part(mask, boxes)
        found = deform_ps_roi_pool_reference_backward(grad[boxes].to(wide), input.to(wide), rois[boxes], o, m, pooling)
        g_input += found[0]
        if offset is not None:
            g_offset[boxes] = found[1].to(wide)
        if mask is not None:
            g_mask[boxes] = found[2].to(wide)
    g_input = g_input.contiguous(memory_format=memory_format(input))
    return _three(as_their_arguments((g_input, g_offset, g_mask), (input, offset, mask)), needed)


def _pieces(rois: Tensor, pooling: PSPooling) -> Iterator[slice]:
    bins = pooling.output_size[0] * pooling.output_size[1]
    samples = bins * pooling.samples_per_bin**2 * pooling.output_channels
    return (boxes for boxes, _ in pieces(rois.shape[0], 1, samples, split_channels=False))


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
    output_channels: int,
    group_size: int,
    part_size: Sequence[int],
    samples_per_bin: int,
    spatial_scale: float,
    gamma: float,
) -> Tensor:
    """Return an empty tensor of the forward's shape and type, contiguous."""
    return input.new_empty(rois.shape[0], output_channels, *output_size)


@torch.library.register_fake(BACKWARD)
def backward_fake(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    output_size: Sequence[int],
    output_channels: int,
    group_size: int,
    part_size: Sequence[int],
    samples_per_bin: int,
    spatial_scale: float,
    gamma: float,
    needed: Sequence[bool],
) -> Gradients:
    """Return empty tensors of the gradients' shapes, types and memory formats."""
    g_input = torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    rest = (grad.new_empty(0) if t is None else t.new_empty(t.shape) for t in (offset, mask))
    return _three((g_input, *rest), needed)


# --- autograd ------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, offset, mask, *ctx.attributes = inputs
    ctx.save_for_backward(input, rois, offset, mask)


def _forward_vjp(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    needed = [need[0], need[2], need[3]]
    results = torch.ops.pliant.deform_ps_roi_pool_backward(grad, *ctx.saved_tensors, *ctx.attributes, needed)
    g_input, g_offset, g_mask = (g if n else None for g, n in zip(results, needed, strict=True))
    return g_input, None, g_offset, g_mask, None, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
    grad, input, rois, offset, mask, *ctx.attributes, ctx.needed = inputs
    ctx.save_for_backward(grad, input, rois, offset, mask)


def _backward_vjp(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, input, rois, offset, mask = ctx.saved_tensors
    pooling = PSPooling.of(*ctx.attributes)

    def pool(input: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
        return deform_ps_roi_pool_reference(input, rois, offset, mask, pooling)

    found = second_derivatives(pool, grad, (input, offset, mask), ctx.needed, grads)
    g_grad, g_input, g_offset, g_mask = found
    return g_grad, g_input, None, g_offset, g_mask, None, None, None, None, None, None, None, None


torch.library.register_autograd(FORWARD, _forward_vjp, setup_context=_save)
torch.library.register_autograd(BACKWARD, _backward_vjp, setup_context=_save_backward)


# --- vmap ----------------------------------------------------------------------------------------------------------

torch.library.register_vmap(FORWARD, vmap_by_element(torch.ops.pliant.deform_ps_roi_pool))
torch.library.register_vmap(BACKWARD, vmap_by_element(torch.ops.pliant.deform_ps_roi_pool_backward))
