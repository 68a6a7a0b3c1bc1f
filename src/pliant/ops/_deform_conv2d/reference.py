# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution as the papers write it: the specification that every kernel is checked against.

For the output position p and the tap k of the kernel grid R, with learned offset and modulation (v2, Eq. 1):

    y(p) = sum_k w_k * x(p + p_k + dp_k) * dm_k
    x(q) = sum_r G(r, q) x(r),   G(r, q) = max(0, 1 - |r_y - q_y|) * max(0, 1 - |r_x - q_x|)      (v1, Eq. 3-4)

where r runs over the pixels of the image and everything outside it is zero. Plain PyTorch: any device, any floating
type, differentiable to any order. Letters: N images, C channels, O output channels, G offset groups, K taps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._checks import compute_dtype


class PixelSamples(NamedTuple):
    """The four pixels around each sampling position, and the position inside their cell."""

    corners: tuple[Tensor, Tensor, Tensor, Tensor]  # x at (top, left), (top, right), (bottom, left), (bottom, right)
    fraction_y: Tensor  # (N, G, 1, K*Ho*Wo), in [0, 1)
    fraction_x: Tensor
    inside: Tensor  # the position touches the image and is finite
    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return G(r, q) of the four corners."""
        y, x = self.fraction_y, self.fraction_x
        return (1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x


def sampling_positions(
    offset: Tensor, kernel: tuple[int, int], geometry: ConvGeometry, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return p + p_k + dp_k in pixels of the input, rows and columns, each (N, G, K, Ho, Wo), in type `dtype`."""
    (kh, kw), (Ho, Wo) = kernel, offset.shape[-2:]
    G = offset.shape[1] // (2 * kh * kw)
    device = offset.device
    dy, dx = offset.to(dtype).reshape(offset.shape[0], G, kh * kw, 2, Ho, Wo).unbind(3)
    tap_y = torch.arange(kh, dtype=dtype, device=device).repeat_interleave(kw).view(-1, 1, 1) * geometry.dilation[0]
    tap_x = torch.arange(kw, dtype=dtype, device=device).repeat(kh).view(-1, 1, 1) * geometry.dilation[1]
    base_y = torch.arange(Ho, dtype=dtype, device=device).view(-1, 1) * geometry.stride[0] - geometry.padding[0]
    base_x = torch.arange(Wo, dtype=dtype, device=device).view(1, -1) * geometry.stride[1] - geometry.padding[1]
    return base_y + tap_y + dy, base_x + tap_x + dx


def sample(x: Tensor, y_pos: Tensor, x_pos: Tensor) -> PixelSamples:
    """Read the corners around each position; x is (N, G, C/G, H, W), the positions (N, G, K, Ho, Wo)."""
    H, W = x.shape[3:]
    y_pos, x_pos = y_pos.flatten(2).unsqueeze(2), x_pos.flatten(2).unsqueeze(2)
    # -1 is inside: the value there is 0 either way, and the slope is the right-hand one, as at every integer.
    inside = (y_pos >= -1) & (y_pos < H) & (x_pos >= -1) & (x_pos < W)  # false for NaN
    y_pos, x_pos = (torch.where(inside, p, p.new_zeros(())) for p in (y_pos, x_pos))
    top, left = y_pos.detach().floor(), x_pos.detach().floor()
    rows, columns = (top.long(), top.long() + 1), (left.long(), left.long() + 1)
    flat = x.flatten(3)
    corners = []
    for row in rows:
        for column in columns:
            index = row.clamp(0, H - 1) * W + column.clamp(0, W - 1)
            value = flat.gather(3, index.expand(-1, -1, x.shape[2], -1)).to(y_pos.dtype)
            exists = inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            corners.append(torch.where(exists, value, value.new_zeros(())))  # (N, G, C/G, K*Ho*Wo)
    return PixelSamples(
        (corners[0], corners[1], corners[2], corners[3]), y_pos - top, x_pos - left, inside, rows, columns
    )


def deform_conv2d_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
) -> Tensor:
    """Return y (N, O, Ho, Wo) of the module's equation."""
    (N, C), (kh, kw), (Ho, Wo) = input.shape[:2], weight.shape[2:], offset.shape[2:]
    K = kh * kw
    G = offset.shape[1] // (2 * K)
    x = input.reshape(N, G, C // G, *input.shape[2:])
    samples = sample(x, *sampling_positions(offset, (kh, kw), geometry, compute_dtype(input)))
    columns = torch.stack([g * v for g, v in zip(samples.weights(), samples.corners, strict=True)]).sum(0)
    if mask is not None:
        m = mask.to(columns.dtype).reshape(N, G, 1, K * Ho * Wo)
        columns = columns * torch.where(samples.inside, m, m.new_zeros(()))
    y: Tensor = multiply(weight, columns.to(input.dtype).reshape(N, C, K, Ho * Wo)).reshape(N, weight.shape[0], Ho, Wo)
    if bias is not None:
        y = y + bias.view(1, -1, 1, 1)
    return y.contiguous(memory_format=memory_format(input))


def multiply(weight: Tensor, columns: Tensor) -> Tensor:
    """Return W (O, C/groups, kh, kw) times columns (N, C, K, P) within each weight group, as (N, O, P)."""
    N, C, K, P = columns.shape
    O, per_group = weight.shape[:2]
    groups = C // per_group
    w = weight.reshape(groups, O // groups, per_group * K)  # (groups, O/groups, C/groups*K)
    return torch.matmul(w, columns.reshape(N, groups, per_group * K, P)).reshape(N, O, P)
