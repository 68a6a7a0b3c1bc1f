# SPDX-License-Identifier: Apache-2.0
"""The gradients of deformable RoI pooling in closed form, in plain PyTorch, for devices without a kernel of their own.

With u the gradient of y, c = u * dm_k / n that of each sample, and t = gamma * offset_k + (i + (s + 1/2) / g) / P the
place of a sample in its box, so that its position is (1 - t) * begin + t * end along each axis:

    dL/dx(r)      = sum over samples p of      c * G(r, p)
    dL/ddm_k      = sum over channels of       u * y(k) / dm_k
    dL/doffset_k  = sum over samples of        gamma * (w, h) * dL/dp,      dL/dp = sum over channels of c * dx(p)/dp
    dL/dbox       = sum over bins, samples of  spatial_scale * ((1 - t) * dL/dp, t * dL/dp)

dx/dp is the right-hand derivative on a pixel, and 0 where a position is held at the border or reads 0. The size of the
grid is a step function of the box, whose derivative is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pliant._geometry import memory_format
from pliant.ops._deform_roi_pool.reference import Pooling, Positions, sample


def deform_roi_pool_reference_backward(
    grad: Tensor, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of input, rois, offset and mask (empty without one)."""
    samples = sample(input, rois, offset, pooling)
    n = samples.divisor.unsqueeze(-1)
    u = grad.to(samples.divisor.dtype).movedim(1, -1)  # (R, Ph, Pw, C)
    pull = u / n if mask is None else u * mask.to(u.dtype).movedim(1, -1) / n
    grad_pixels, grad_y, grad_x = samples.grid.pull_back(pull)
    N, C, H, W = input.shape
    grad_input = grad_pixels.view(N, H, W, C).movedim(-1, 1).to(input.dtype)
    empty = grad.new_empty(0)
    grad_offset = empty
    if offset is not None:
        shifts = [pooling.gamma * g.sum(-1) * p.extent for p, g in ((samples.x, grad_x), (samples.y, grad_y))]
        grad_offset = torch.stack(shifts, 1).to(offset.dtype)
    grad_mask = empty
    if mask is not None:
        grad_mask = (u * samples.grid.total() / n).sum(-1).unsqueeze(1).to(mask.dtype)
    y1, y2 = _of_box(0, samples.y, grad_y, pooling)
    x1, x2 = _of_box(1, samples.x, grad_x, pooling)
    grad_rois = torch.stack([torch.zeros_like(x1), x1, y1, x2, y2], 1).to(rois.dtype)
    return grad_input.contiguous(memory_format=memory_format(input)), grad_rois, grad_offset, grad_mask


def _of_box(axis: int, p: Positions, grad: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """Return the gradients of a box's begin and end along `axis` from those of its positions (R, Ph, Pw, L)."""
    bins = pooling.output_size[axis]
    number = torch.arange(bins, dtype=grad.dtype, device=grad.device).view((-1, 1, 1) if axis == 0 else (-1, 1))
    in_bin = (p.within + 0.5) / p.grid.clamp(min=1).unsqueeze(-1)
    moved = pooling.gamma * p.shift.unsqueeze(-1)
    place = torch.where(moved.isfinite(), moved, 0) + (number + in_bin) / bins  # t, of bins that read something
    end = (grad * place).sum((1, 2, 3))
    return pooling.spatial_scale * (grad.sum((1, 2, 3)) - end), pooling.spatial_scale * end
