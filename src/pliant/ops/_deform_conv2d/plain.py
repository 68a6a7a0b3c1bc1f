# SPDX-License-Identifier: Apache-2.0
"""A deformable convolution in operators that every runtime has: a grid of samples and a convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pliant._geometry import ConvGeometry


def decomposed(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, mask: Tensor | None
) -> Tensor:
    """Return the deformable convolution as `grid_sample` and a 1x1 `conv2d`, in tensors of at most four dimensions."""
    N, C, H, W = input.shape
    O, per_group, kh, kw = weight.shape
    K, (Ho, Wo) = kh * kw, offset.shape[2:]
    G = offset.shape[1] // (2 * K)
    shifts = offset.reshape(N * G, K, 2, Ho * Wo)
    rows, columns = _grid(geometry, (kh, kw), (Ho, Wo), offset)  # (K, Ho*Wo)
    # Pixel p of P has its centre at (2 * p + 1) / P - 1, where the image reaches from -1 to 1.
    y = (2 * (rows + shifts[:, :, 0]) + 1) / H - 1
    x = (2 * (columns + shifts[:, :, 1]) + 1) / W - 1
    places = torch.stack([x, y], -1).reshape(N * G, K * Ho, Wo, 2).to(input.dtype)
    maps = input.reshape(N * G, C // G, H, W)
    samples = functional.grid_sample(maps, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    if mask is not None:
        samples = samples * mask.reshape(N * G, 1, K * Ho, Wo)
    samples = samples.reshape(N, C * K, Ho, Wo)
    return functional.conv2d(samples, weight.reshape(O, per_group * K, 1, 1), bias, groups=C // per_group)


def _grid(geometry: ConvGeometry, kernel: tuple[int, int], size: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column of each tap at each output position, (kh*kw, Ho*Wo), in pixels of the input."""
    axes = []
    for i in range(2):
        taps = torch.arange(kernel[i], dtype=like.dtype, device=like.device) * geometry.dilation[i]
        places = torch.arange(size[i], dtype=like.dtype, device=like.device) * geometry.stride[i] - geometry.padding[i]
        axes.append((taps, places))
    (tap_y, y), (tap_x, x) = axes
    zero_y, zero_x = torch.zeros_like(y), torch.zeros_like(x)
    rows = tap_y.repeat_interleave(kernel[1]).unsqueeze(1) + (y.unsqueeze(1) + zero_x).reshape(1, -1)
    columns = tap_x.repeat(kernel[0]).unsqueeze(1) + (zero_y.unsqueeze(1) + x).reshape(1, -1)
    return rows, columns
