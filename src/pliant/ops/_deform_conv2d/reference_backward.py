# SPDX-License-Identifier: Apache-2.0
"""The gradients of deformable convolution in closed form, in plain PyTorch, for devices without a kernel of their own.

With u the gradient of y and c = W^T u the gradient of the columns, (v1, appendix A; v2, Eq. 1):

    dL/dx(r)  = sum over samples q, taps k of  c_k * dm_k * G(r, q)
    dL/ddm_k  = sum over channels of           c_k * x(q)
    dL/ddp_k  = sum over channels of           c_k * dm_k * sum_r dG/dq(r, q) x(r)

At integer positions dG/dq is the right-hand derivative. Positions outside the image or not finite get zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._checks import compute_dtype
from pliant.ops._deform_conv2d.reference import PixelSamples, sample, sampling_positions


def deform_conv2d_reference_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset, weight, bias and mask (empty without a mask)."""
    (N, C, H, W), (O, _, kh, kw), (Ho, Wo) = input.shape, weight.shape, offset.shape[2:]
    K, P = kh * kw, Ho * Wo
    G = offset.shape[1] // (2 * K)
    groups = C // weight.shape[1]
    dtype = compute_dtype(input)
    positions = sampling_positions(offset, (kh, kw), geometry, dtype)
    samples = sample(input.reshape(N, G, C // G, H, W), *positions)
    ones = torch.ones((), dtype=dtype, device=input.device)
    m = ones if mask is None else torch.where(samples.inside, mask.to(dtype).reshape(N, G, 1, K * P), ones * 0)

    u = grad.to(dtype).reshape(N, groups, O // groups, P)
    w = weight.to(dtype).reshape(groups, O // groups, C // groups * K)  # (groups, O/groups, C/groups*K)
    c = torch.matmul(w.mT, u).reshape(N, G, C // G, K * P)
    values = torch.stack([g * v for g, v in zip(samples.weights(), samples.corners, strict=True)]).sum(0)  # x(q)

    columns = (m * values).reshape(N, groups, C // groups * K, P)
    grad_weight = torch.matmul(u, columns.mT).sum(0).reshape(weight.shape)
    grad_mask = (c * values).sum(2).reshape(N, G * K, Ho, Wo)
    slope_y, slope_x = _slopes(samples)
    grad_y, grad_x = ((c * m * slope).sum(2).reshape(N, G, K, Ho, Wo) for slope in (slope_y, slope_x))
    grad_offset = torch.stack((grad_y, grad_x), 3).reshape(offset.shape)  # (N, 2*G*K, Ho, Wo)
    grad_input = _scatter(c * m, samples, (H, W)).reshape(input.shape)
    return (
        grad_input.to(input.dtype).contiguous(memory_format=memory_format(input)),
        grad_offset.to(offset.dtype),
        grad_weight.to(weight.dtype),
        grad.to(dtype).sum((0, 2, 3)).to(weight.dtype),
        grad.new_empty(0) if mask is None else grad_mask.to(mask.dtype),
    )


def _slopes(samples: PixelSamples) -> tuple[Tensor, Tensor]:
    """Return dx(q)/dq_y and dx(q)/dq_x; zero outside, since the corners there are zero."""
    v1, v2, v3, v4 = samples.corners
    y, x = samples.fraction_y, samples.fraction_x
    return (1 - x) * (v3 - v1) + x * (v4 - v2), (1 - y) * (v2 - v1) + y * (v4 - v3)


def _scatter(values: Tensor, samples: PixelSamples, size: tuple[int, int]) -> Tensor:
    """Add `values` (N, G, C/G, K*P) to the pixels they were read from, with the weights they were read with."""
    H, W = size
    result = values.new_zeros(*values.shape[:3], H * W)
    places = [(row, column) for row in samples.rows for column in samples.columns]
    for weight, (row, column) in zip(samples.weights(), places, strict=True):
        exists = samples.inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        index = row.clamp(0, H - 1) * W + column.clamp(0, W - 1)
        result = result.scatter_add(
            3, index.expand_as(values), torch.where(exists, weight * values, values.new_zeros(()))
        )
    return result
