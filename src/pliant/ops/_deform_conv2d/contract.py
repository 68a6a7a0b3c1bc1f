# SPDX-License-Identifier: Apache-2.0
"""The operator `pliant::deform_conv2d`: schema, fake, autograd, autocast, vmap, and the functions of each device.

Each device's function is registered here and nowhere else; availability is registration. All of them take their
arguments in the order of the schemas, with one geometry in the place of stride, padding and dilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops import _backends
from pliant.ops._deform_conv2d.reference import deform_conv2d_reference
from pliant.ops._deform_conv2d.reference_backward import deform_conv2d_reference_backward
from pliant.ops._dispatch import autocast_is_on, only_needed, second_derivatives, vmap_by_element, without_autocast

FORWARD = "pliant::deform_conv2d"
BACKWARD = "pliant::deform_conv2d_backward"
_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation"

torch.library.define(
    FORWARD, f"(Tensor input, Tensor offset, Tensor weight, Tensor? bias, {_GEOMETRY}, Tensor? mask) -> Tensor"
)
# Always five results (input, offset, weight, bias, mask), so that no result is optional; unneeded ones are empty.
torch.library.define(
    BACKWARD,
    f"(Tensor grad, Tensor input, Tensor offset, Tensor weight, {_GEOMETRY}, Tensor? mask, bool[5] needed)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)

Ints = Sequence[int]
Gradients = tuple[Tensor, ...]
Result = TypeVar("Result")


def _geometry(stride: Ints, padding: Ints, dilation: Ints) -> ConvGeometry:
    return ConvGeometry((stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]))


def with_geometry(function: Callable[..., Result]) -> Callable[..., Result]:
    """Return `function`, which takes one geometry, as one that takes the schemas' stride, padding and dilation."""

    def with_its_three_parts(*arguments: Any) -> Result:
        before, parts, after = arguments[:4], arguments[4:7], arguments[7:]
        return function(*before, _geometry(*parts), *after)

    return with_its_three_parts


# --- any device: the reference -------------------------------------------------------------------------------------


@with_geometry
def forward_reference(*arguments: Any) -> Tensor:
    """Compute the forward pass on any device by the reference."""
    _backends.warn_reference("deform_conv2d", arguments[0].device)
    return deform_conv2d_reference(*arguments)


@with_geometry
def backward_reference(*arguments: Any) -> Gradients:
    """Compute the gradients on any device in closed form."""
    *tensors, needed = arguments
    return only_needed(deform_conv2d_reference_backward(*tensors), needed)


torch.library.impl(FORWARD, "CompositeExplicitAutograd")(forward_reference)
torch.library.impl(BACKWARD, "CompositeExplicitAutograd")(backward_reference)


# --- CPU: the native library, where it was built -------------------------------------------------------------------

HAS_NATIVE = _backends.native_library() is not None

if HAS_NATIVE:
    from pliant.ops._deform_conv2d.cpu_native import deform_conv2d_cpu
    from pliant.ops._deform_conv2d.cpu_native_backward import deform_conv2d_cpu_backward

    torch.library.impl(FORWARD, "CPU")(with_geometry(deform_conv2d_cpu))
    torch.library.impl(BACKWARD, "CPU")(with_geometry(deform_conv2d_cpu_backward))


# --- CUDA and ROCm: Triton, imported at the first call, or PyTorch's own operations where it cannot run --------------


@with_geometry
def forward_cuda(*arguments: Any) -> Tensor:
    """Compute the forward pass on a GPU."""
    reason = _backends.why_no_triton(arguments[0].device)
    if reason is None:
        from pliant.ops._deform_conv2d.gpu_forward import deform_conv2d_triton

        return deform_conv2d_triton(*arguments)
    from pliant.ops._deform_conv2d.gpu_columns import deform_conv2d_columns

    _backends.warn_columns("deform_conv2d", reason)
    return deform_conv2d_columns(*arguments)


@with_geometry
def backward_cuda(*arguments: Any) -> Gradients:
    """Compute the gradients on a GPU."""
    if _backends.why_no_triton(arguments[1].device) is None:
        from pliant.ops._deform_conv2d.gpu_backward import deform_conv2d_triton_backward

        return deform_conv2d_triton_backward(*arguments)
    from pliant.ops._deform_conv2d.gpu_columns import deform_conv2d_columns_backward

    *tensors, needed = arguments
    return only_needed(deform_conv2d_columns_backward(*tensors), needed)


torch.library.impl(FORWARD, "CUDA")(forward_cuda)
torch.library.impl(BACKWARD, "CUDA")(backward_cuda)


# --- shapes without data -------------------------------------------------------------------------------------------


@torch.library.register_fake(FORWARD)
def forward_fake(input: Tensor, offset: Tensor, weight: Tensor, *others: Any) -> Tensor:
    """Return an empty tensor of the forward's shape, type and memory format."""
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))


@torch.library.register_fake(BACKWARD)
def backward_fake(grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, *others: Any) -> Gradients:
    """Return empty tensors of the gradients' shapes, types and memory formats."""
    *_, mask, needed = others
    gradients = (
        torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input)),
        offset.new_empty(offset.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[0]),
        grad.new_empty(0) if mask is None else mask.new_empty(mask.shape),
    )
    return only_needed(gradients, needed)


# --- autograd ------------------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, offset, weight, _, *ctx.geometry, mask = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def _forward_vjp(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, offset, weight, mask = ctx.saved_tensors
    need = ctx.needs_input_grad
    needed = [need[0], need[1], need[2], need[3], need[7]]
    results = torch.ops.pliant.deform_conv2d_backward(grad, input, offset, weight, *ctx.geometry, mask, needed)
    g_input, g_offset, g_weight, g_bias, g_mask = (g if n else None for g, n in zip(results, needed, strict=True))
    return g_input, g_offset, g_weight, g_bias, None, None, None, g_mask


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
    grad, input, offset, weight, *ctx.geometry, mask, ctx.needed = inputs
    ctx.save_for_backward(grad, input, offset, weight, mask)


def _backward_vjp(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Differentiate the backward through the reference, whose gradients PyTorch itself can differentiate."""
    grad, input, offset, weight, mask = ctx.saved_tensors
    geometry = _geometry(*ctx.geometry)

    def convolve(x: Tensor, o: Tensor, w: Tensor, bias: Tensor, m: Tensor | None) -> Tensor:
        return deform_conv2d_reference(x, o, w, bias, geometry, m)

    tensors = (input, offset, weight, weight.new_zeros(weight.shape[0]), mask)
    found = second_derivatives(convolve, grad, tensors, ctx.needed, grads)
    g_grad, g_input, g_offset, g_weight, _, g_mask = found
    return g_grad, g_input, g_offset, g_weight, None, None, None, g_mask, None


torch.library.register_autograd(FORWARD, _forward_vjp, setup_context=_save)
torch.library.register_autograd(BACKWARD, _backward_vjp, setup_context=_save_backward)


# --- autocast ------------------------------------------------------------------------------------------------------


def cast_for_autocast(
    input: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return what is multiplied in autocast's type where autocast is on; the offset is left out on purpose.

    A coordinate in half precision has lost its fraction at column 2048.
    """
    device_type = input.device.type
    if not autocast_is_on(device_type) or input.dtype == torch.float64:
        return input, weight, bias, mask
    dtype = torch.get_autocast_dtype(device_type)
    b, m = (None if t is None else t.to(dtype) for t in (bias, mask))
    return input.to(dtype), weight.to(dtype), b, m


def _autocast_rule(device_type: str) -> Callable[..., Tensor]:
    """Return the rule that casts as `cast_for_autocast` says and calls the operator again without autocast."""

    @with_geometry
    def rule(
        input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, mask: Tensor | None
    ) -> Tensor:
        x, w, b, m = cast_for_autocast(input, weight, bias, mask)
        with without_autocast(device_type):
            result: Tensor = torch.ops.pliant.deform_conv2d(x, offset, w, b, *geometry, m)
        return result

    return rule


for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA"), ("xpu", "AutocastXPU")):
    torch.library.impl(FORWARD, _key)(_autocast_rule(_device_type))


# --- vmap ----------------------------------------------------------------------------------------------------------


def _vmap_forward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    """Fold the mapped dimension into the batch where the weights are shared, else run once for each element."""
    operator = torch.ops.pliant.deform_conv2d
    if in_dims[2] is not None or in_dims[3] is not None:
        result: tuple[Any, Any] = vmap_by_element(operator)(info, in_dims, *args)
        return result

    def fold(tensor: Tensor | None, dim: int | None) -> Tensor | None:
        if tensor is None:
            return None
        moved = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return moved.flatten(0, 1)

    folded = list(args)
    for i in (0, 1, 7):
        folded[i] = fold(args[i], in_dims[i])
    return operator(*folded).unflatten(0, (info.batch_size, -1)), 0


torch.library.register_vmap(FORWARD, _vmap_forward)
torch.library.register_vmap(BACKWARD, vmap_by_element(torch.ops.pliant.deform_conv2d_backward))
