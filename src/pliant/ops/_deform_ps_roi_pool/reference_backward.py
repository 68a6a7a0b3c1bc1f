# SPDX-License-Identifier: Apache-2.0
"""The gradients of deformable position-sensitive RoI pooling in closed form, for devices without a kernel of their own.

With u the gradient of y, and c = u * dm / n that of each of the n samples read:

    dL/dx(r)     = sum over samples p of                        c * G(r, p)
    dL/ddm       = sum over channels of a class, bins of a part u * y / dm
    dL/doffset   = sum over the same, and samples, of           gamma * (w, h) * c * dx(p)/dp

dx/dp is 0 on a pixel and where a position is held at the border, because the pixels before and after it are then the
same. n is a step function of the offsets, whose derivative is 0. Boxes are rounded and get no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pliant._geometry import memory_format
from pliant.ops._deform_ps_roi_pool.reference import PSPooling, classes_of, of_parts, sample, to_parts


def deform_ps_roi_pool_reference_backward(
    grad: Tensor, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: PSPooling
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, offset and mask (empty without one)."""
    (N, _, H, W), G, O = input.shape, pooling.group_size, pooling.output_channels
    K = classes_of(offset, mask)
    samples = sample(input, rois, offset, K, pooling)
    n = samples.divisor.unsqueeze(-1)
    u = grad.to(n.dtype).unflatten(1, (K, O // K)).movedim(2, -1)  # (R, K, Ph, Pw, O/K)
    pull = u / n if mask is None else u * of_parts(mask.to(u.dtype), pooling).unsqueeze(-1) / n
    grad_pixels, grad_y, grad_x = samples.grid.pull_back(pull)
    grad_input = grad_pixels.view(N, K, G, G, H, W, O // K).permute(0, 1, 6, 2, 3, 4, 5).reshape(input.shape)
    grad_offset = grad_mask = grad.new_empty(0)
    if offset is not None:
        h, w = samples.extents
        shifts = (pooling.gamma * grad_x.sum(-1) * w, pooling.gamma * grad_y.sum(-1) * h)
        grad_offset = to_parts(torch.stack(shifts, 2).flatten(1, 2), pooling).to(offset.dtype)
    if mask is not None:
        grad_mask = to_parts((u * samples.grid.total() / n).sum(-1), pooling).to(mask.dtype)
    grad_input = grad_input.to(input.dtype).contiguous(memory_format=memory_format(input))
    return grad_input, grad_offset, grad_mask
