# SPDX-License-Identifier: Apache-2.0
"""The public function: documentation, checks, and the choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant._check import hint_at_names
from pliant._geometry import ConvGeometry, padding_pair, pair
from pliant.ops._deform_conv2d import contract, recorded
from pliant.ops._deform_conv2d.checks import check_arguments
from pliant.ops._deform_conv2d.reference import deform_conv2d_reference
from pliant.ops._dispatch import Impl, check_impl, needs_reference, overridable, without_autocast
from pliant.ops._recording import numbers_are_fixed, records_onnx, records_trace

_BY_OFFSET = "leave it out: the number of offset groups follows from the channels of offset"
HINTS = {
    "deform_groups": _BY_OFFSET,
    "deformable_groups": _BY_OFFSET,
    "offset_groups": _BY_OFFSET,
    "groups": "leave it out: the number of groups follows from dimension 1 of weight",
}


@overridable
@hint_at_names("deform_conv2d", HINTS)
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] | str = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
    *,
    impl: Impl = "auto",
) -> Tensor:
    r"""Convolve with taps that each look where a learned offset sends them (v1), and weigh it (v2).

    .. math:: y(p) = \sum_{k=1}^{K} w_k \cdot x(p + p_k + \Delta p_k) \cdot \Delta m_k

    `x` at a fractional position is bilinear between the four pixels around it. Everything outside the image is zero, so
    a sample less than one pixel outside fades out and a sample further away reads 0. A NaN or infinite position reads
    0 and gets zero gradients. At integer positions, -1 included, the offset's gradient is the right-hand derivative.
    A pixel that is NaN or infinite makes NaN of each sample that it is a corner of, with weight 0 too: a sample on a
    pixel has the pixels to the right of it and below as corners.

    Args:
        input: (N, C, H, W), or (C, H, W) for one image; float16, bfloat16, float32 or float64.
        offset: (N, 2*G*K, Ho, Wo) in pixels of the input, with K = kh*kw taps and G offset groups. Channels are ordered
            group, then tap (row-major), then (dy, dx). Any floating type: coordinates are float32 or wider.
        weight: (O, C/groups, kh, kw), of input's type. The number of groups follows from its second dimension.
        bias: (O,), or None.
        stride: distance between output positions, in pixels of the input; an integer or a (vertical, horizontal) pair.
        padding: how far outside the image the grid starts, in pixels of the input; an integer or such a pair; or
            "same" or "valid", as in `torch.nn.Conv2d`.
        dilation: distance between taps, in pixels of the input; an integer or such a pair.
        mask: (N, G*K, Ho, Wo), the modulation of each tap, usually in [0, 1]; or None, which is v1.
        impl: "auto" follows the device. "reference" is plain PyTorch, differentiable to any order; "native" (CPU) and
            "triton" (GPU) are the kernels. An explicit choice runs or raises; it never falls back.

    Returns:
        (N, O, Ho, Wo), or (O, Ho, Wo) for one image, of input's type; channels_last where input is channels_last.

    Note:
        First derivatives come from kernels, as the forward does. Second derivatives, and forward-mode derivatives, are
        computed through the reference, which keeps all samples in memory. On a CPU results have the same bits each
        time and for any number of threads; where the processor multiplies bfloat16, PyTorch's product decides that.
        On a GPU the image's gradient of a small layer is added up in no fixed order, unless
        `torch.use_deterministic_algorithms(True)` is set. Under autocast the result has autocast's type, as that of
        `torch.nn.functional.conv2d` does: bfloat16 on a CPU, of a float32 input too. Input, weight, bias and mask are
        cast, the offset is not, and a float64 input turns the casts off.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of the above.
        ValueError: shapes, devices or group counts do not fit; the message says which and what would.
        RuntimeError: `impl` names an implementation that cannot run here.

    Example:
        >>> import torch
        >>> from pliant.ops import deform_conv2d
        >>> x, w = torch.rand(1, 8, 5, 7), torch.rand(6, 8, 3, 3)
        >>> offset, mask = torch.zeros(1, 2 * 9, 5, 7), torch.ones(1, 9, 5, 7)
        >>> y = deform_conv2d(x, offset, w, padding=1, mask=mask)
        >>> torch.allclose(y, torch.nn.functional.conv2d(x, w, padding=1), atol=1e-5)
        True

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.1, Eq. 2-4;
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2, Eq. 1.
    """
    with numbers_are_fixed():
        geometry = geometry_of(weight, stride, padding, dilation)
        check_arguments(input, offset, weight, bias, geometry, mask)
    if input.dim() == 3:
        mask = None if mask is None else mask.unsqueeze(0)
        return _run(input.unsqueeze(0), offset.unsqueeze(0), weight, bias, geometry, mask, impl).squeeze(0)
    return _run(input, offset, weight, bias, geometry, mask, impl)


def geometry_of(
    weight: object,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] | str = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
) -> ConvGeometry:
    """Return stride, padding and dilation of a convolution by `weight`, as checked pairs."""
    steps, taps = pair("stride", stride, minimum=1), pair("dilation", dilation, minimum=1)
    return ConvGeometry(steps, padding_pair(padding, _kernel_size(weight), steps, taps), taps)


def _kernel_size(weight: object) -> tuple[int, ...]:
    """Return (kh, kw), or that of one tap where `weight` is wrong, which is refused later."""
    return tuple(weight.shape[2:]) if isinstance(weight, Tensor) and weight.dim() == 4 else (1, 1)


def _run(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
    impl: Impl,
) -> Tensor:
    check_impl(impl, input.device, has_native=contract.HAS_NATIVE)
    if needs_reference("deform_conv2d", impl, (input, offset, weight, bias, mask)):
        tensors = contract.cast_for_autocast(input, weight, bias, mask)
        with without_autocast(input.device.type):
            return deform_conv2d_reference(tensors[0], offset, tensors[1], tensors[2], geometry, tensors[3])
    if impl == "auto" and records_trace(input, offset, weight, bias, mask):
        return recorded.as_torchvision(input, offset, weight, bias, geometry, mask)
    if impl == "auto" and records_onnx(input, offset, weight, bias, mask):
        return recorded.as_onnx(input, offset, weight, bias, geometry, mask)
    result: Tensor = torch.ops.pliant.deform_conv2d(input, offset, weight, bias, *geometry, mask)
    return result
