# SPDX-License-Identifier: Apache-2.0
"""pliant's operators in operators that every runtime has: a grid of samples and a convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pliant._geometry import ConvGeometry
from pliant.ops import deform_conv2d, deform_ps_roi_pool
from pliant.ops._deform_conv2d.api import geometry_of


def plain_operators() -> AbstractContextManager[object]:
    """Return a context in which `pliant.ops.deform_conv2d` is written in operators that every runtime has.

    Any exporter or converter that follows a model inside it finds `grid_sample` and `conv2d` in place of deformable
    convolutions, and `deform_ps_roi_pool` as its reference computes it. Deformable RoI pooling becomes RoIAlign
    without it too. Offsets must be finite. The samples of a layer are kept in memory, K times its input.

    Example:
        >>> import torch, pliant
        >>> layer, x = pliant.nn.DeformConv2d(4, 6, 3).eval(), torch.rand(1, 4, 8, 9)
        >>> with plain_operators():
        ...     program = torch.export.export(layer, (x,))
        >>> sorted({str(node.target) for node in program.graph.nodes if "grid" in str(node.target)})
        ['aten.grid_sampler.default']
    """
    return _PlainOperators()


class _PlainOperators(TorchFunctionMode):
    """Replaces the calls of pliant's functions, and of nothing else."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is deform_conv2d:
            given.pop("impl", None)
            return _plain_deform_conv2d(*args, **given)
        if func is deform_ps_roi_pool:
            given["impl"] = "reference"
        call: Callable[..., Any] = func
        return call(*args, **given)


def _plain_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] | str = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    geometry = geometry_of(weight, stride, padding, dilation)
    if input.dim() == 3:
        mask = None if mask is None else mask.unsqueeze(0)
        return decomposed(input.unsqueeze(0), offset.unsqueeze(0), weight, bias, geometry, mask).squeeze(0)
    return decomposed(input, offset, weight, bias, geometry, mask)


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
