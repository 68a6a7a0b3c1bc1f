# SPDX-License-Identifier: Apache-2.0
"""What the arguments of a deformable convolution must be: each rule once, worded by `_check`."""

from __future__ import annotations

from torch import Tensor

from pliant._check import counted, fail
from pliant._geometry import ConvGeometry
from pliant.ops._checks import check_dim, check_tensor, shape_text
from pliant.ops._dispatch import autocast_is_on


def check_arguments(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, mask: Tensor | None
) -> None:
    """Raise unless types, devices, dimensions and shapes fit one another."""
    tensors = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    present = {name: t for name, t in tensors.items() if t is not None}
    for name, tensor in present.items():
        check_tensor(name, tensor, input)
    _check_same_dtype(input, {n: present[n] for n in ("weight", "bias") if n in present})
    batched = input.dim() == 4
    check_dim("input", input, (3, 4), "(N, C, H, W) or (C, H, W)")
    check_dim("weight", weight, (4,), "(O, C/groups, kh, kw)")
    for name in ("offset", "mask"):
        if name in present:
            check_dim(name, present[name], (input.dim(),), "(N, channels, Ho, Wo)" if batched else "(channels, Ho, Wo)")
    _check_groups(input.shape[-3], weight)
    _check_maps(input, offset, weight, geometry, mask)
    O = weight.shape[0]
    if bias is not None and bias.shape != (O,):
        fix = f"give it the shape ({O},)"
        fail("bias", "must have one value for each output channel", f"the shape {shape_text(bias.shape)}", fix)


def _check_same_dtype(input: Tensor, others: dict[str, Tensor]) -> None:
    if autocast_is_on(input.device.type):
        return
    for name, tensor in others.items():
        if tensor.dtype != input.dtype:
            fix = f"pass {name}.to(input.dtype)"
            fail(name, f"must have input's dtype {input.dtype}", tensor.dtype, fix, kind=TypeError)


def _check_groups(channels: int, weight: Tensor) -> None:
    O, per_group, kh, kw = weight.shape
    if min(weight.shape) < 1:
        fix = "use a kernel of 1x1 or more"
        rule = "must have at least one element in each dimension"
        fail("weight", rule, f"the shape {shape_text(weight.shape)}", fix)
    if channels % per_group:
        rule = f"dimension 1 must divide the {counted(channels, 'channel')} of input"
        fix = f"use the shape ({O}, {channels}, {kh}, {kw}) for one group"
        fail("weight", rule, f"the shape {shape_text(weight.shape)}", fix)
    groups = channels // per_group
    if O % max(groups, 1):
        rule = f"dimension 0 must be a multiple of the {groups} groups that dimension 1 implies"
        fail("weight", rule, f"the shape {shape_text(weight.shape)}", f"use a multiple of {groups} output channels")


def _check_maps(input: Tensor, offset: Tensor, weight: Tensor, geometry: ConvGeometry, mask: Tensor | None) -> None:
    """Check offset and mask against the output size and against the channels they are for."""
    kh, kw = weight.shape[2:]
    K = kh * kw
    channels = offset.shape[-3]
    if channels == 0 or channels % (2 * K):
        fail("offset", _offset_rule(kh, kw), counted(channels, "channel"), f"use {2 * K} for one group")
    G = channels // (2 * K)
    if input.shape[-3] % G:
        image = counted(input.shape[-3], "channel")
        rule = f"{_offset_rule(kh, kw)}, and the number of groups must divide input's {image}"
        fail("offset", rule, f"{counted(channels, 'channel')}, hence {G} groups", f"use {2 * K} for one group")
    size = geometry.output_size(input.shape[-2:], weight.shape[2:])
    if min(size) < 1:
        taps = tuple(weight.shape[2:])
        got = f"the shape {shape_text(input.shape)} for the kernel {taps} with {geometry}"
        fail("input", "must be at least as large as the dilated kernel, padding included", got, "increase padding")
    wanted = {"offset": (*input.shape[:-3], channels, *size), "mask": (*input.shape[:-3], G * K, *size)}
    for name, tensor in (("offset", offset), ("mask", mask)):
        if tensor is not None and tensor.shape != wanted[name]:
            rule = f"must have the shape {shape_text(wanted[name])} for this input and kernel with {geometry}"
            fix = "predict it with a convolution of the same kernel, stride, padding and dilation"
            fail(name, rule, f"the shape {shape_text(tensor.shape)}", fix)


def _offset_rule(kh: int, kw: int) -> str:
    """Return what the channels of offset must be. Written only when wrong: text would fix sizes in a compiled graph."""
    return f"must have {counted(2 * kh * kw, 'channel')} for each offset group, 2 for each tap of the {kh}x{kw} kernel"
