# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution in NumPy float64, one sampling point at a time, straight from the papers' equations.

DCNv1 (arXiv 1703.06211) writes a sample as a sum over *all* pixels q of the image (Eq. 3 and 4),

    x(p) = sum_q G(q, p) x(q),    G(q, p) = g(q_y, p_y) g(q_x, p_x),    g(a, b) = max(0, 1 - |a - b|),

and every gradient follows from G alone. So there is no floor, no corner, no boundary test and no column matrix here:
what the kernels compute with four corners has to come out of a sum that knows of none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Gradients:
    """The gradients of a scalar loss with respect to each argument; None where the argument was None."""

    input: Array
    offset: Array
    weight: Array
    bias: Array | None
    mask: Array | None


@dataclass(frozen=True)
class _Point:
    """One sampling point p0 + pn + dpn: the indices that name it, and where it lies."""

    image: int
    channels: slice  # the input channels of its offset group
    tap: Pair
    output: Pair
    offset_at: tuple[int, int, int, int]  # index of dy in the offset tensor; dx is one channel further
    mask_at: tuple[int, int, int, int]
    y: float
    x: float
    modulation: float


def hat(pixels: Array, p: float) -> Array:
    """Return g(q, p) for every pixel coordinate q."""
    return np.maximum(0.0, 1.0 - np.abs(pixels - p))


def hat_right_slope(pixels: Array, p: float) -> Array:
    """Return the derivative of g(q, p) with respect to p **from the right**, for every q.

    g rises while p is in [q - 1, q) and falls while p is in [q, q + 1). Each of those intervals has its left end and
    not its right one, because the derivative from the right looks at the points just after p.
    """
    rises = (pixels - 1 <= p) & (p < pixels)
    falls = (pixels <= p) & (p < pixels + 1)
    return rises.astype(np.float64) - falls.astype(np.float64)


def forward(
    x: Array, offset: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair,
    mask: Array | None,
) -> Array:  # fmt: skip
    """Return y(p0) = bias + sum_n w(pn) x(p0 + pn + dpn) dm_n, of shape (N, O, Ho, Wo)."""
    dense = _dense_weight(weight, x.shape[1])
    y = np.zeros((x.shape[0], weight.shape[0], *offset.shape[2:]))
    for p in _points(x, offset, weight, mask, stride, padding, dilation):
        g_y, g_x = _hats(x, p)
        sample = x[p.image, p.channels] @ g_x @ g_y  # sum over q_x, then over q_y
        y[p.image, :, p.output[0], p.output[1]] += p.modulation * (dense[:, p.channels, p.tap[0], p.tap[1]] @ sample)
    return y if bias is None else y + bias[:, None, None]


def backward(
    grad: Array, x: Array, offset: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair,
    dilation: Pair, mask: Array | None,
) -> Gradients:  # fmt: skip
    """Return the gradients of sum(grad * y) with respect to input, offset, weight, bias and mask."""
    dense = _dense_weight(weight, x.shape[1])
    d_x, d_offset, d_dense = np.zeros_like(x), np.zeros_like(offset), np.zeros_like(dense)
    d_mask = None if mask is None else np.zeros_like(mask)
    for p in _points(x, offset, weight, mask, stride, padding, dilation):
        pixels, (a, b) = x[p.image, p.channels], p.tap
        g_y, g_x = _hats(x, p)
        s_y, s_x = _slopes(x, p)
        u = grad[p.image, :, p.output[0], p.output[1]]
        pull = dense[:, p.channels, a, b].T @ u  # dL/d(modulation * sample), per channel
        sample = pixels @ g_x @ g_y
        d_x[p.image, p.channels] += p.modulation * pull[:, None, None] * np.outer(g_y, g_x)
        d_dense[:, p.channels, a, b] += p.modulation * np.outer(u, sample)
        n, channel, i, j = p.offset_at
        d_offset[n, channel, i, j] += p.modulation * (pull @ (pixels @ g_x @ s_y))
        d_offset[n, channel + 1, i, j] += p.modulation * (pull @ (pixels @ s_x @ g_y))
        if d_mask is not None:
            d_mask[p.mask_at] += pull @ sample
    d_bias = None if bias is None else grad.sum(axis=(0, 2, 3))
    return Gradients(d_x, d_offset, _grouped_weight(d_dense, weight), d_bias, d_mask)


def _points(
    x: Array, offset: Array, weight: Array, mask: Array | None, stride: Pair, padding: Pair, dilation: Pair
) -> Iterator[_Point]:
    """Yield every sampling point whose coordinates are numbers; the others sample 0 and have gradient 0."""
    kernel_h, kernel_w = weight.shape[2:]
    groups = offset.shape[1] // (2 * kernel_h * kernel_w)
    width = x.shape[1] // groups
    for n, group, a, b, i, j in np.ndindex(x.shape[0], groups, kernel_h, kernel_w, *offset.shape[2:]):
        k = a * kernel_w + b
        dy_at = (n, group * 2 * kernel_h * kernel_w + 2 * k, i, j)
        mask_at = (n, group * kernel_h * kernel_w + k, i, j)
        y = i * stride[0] - padding[0] + a * dilation[0] + float(offset[dy_at])
        x_ = j * stride[1] - padding[1] + b * dilation[1] + float(offset[n, dy_at[1] + 1, i, j])
        if np.isfinite(y) and np.isfinite(x_):
            modulation = 1.0 if mask is None else float(mask[mask_at])
            channels = slice(group * width, (group + 1) * width)
            yield _Point(n, channels, (a, b), (i, j), dy_at, mask_at, y, x_, modulation)


def _hats(x: Array, p: _Point) -> tuple[Array, Array]:
    return hat(_pixels(x.shape[2]), p.y), hat(_pixels(x.shape[3]), p.x)


def _slopes(x: Array, p: _Point) -> tuple[Array, Array]:
    return hat_right_slope(_pixels(x.shape[2]), p.y), hat_right_slope(_pixels(x.shape[3]), p.x)


def _pixels(count: int) -> Array:
    return np.arange(count, dtype=np.float64)


def _dense_weight(weight: Array, channels: int) -> Array:
    """Return the weight as (O, C, kh, kw): zero where an output channel does not see an input channel."""
    dense = np.zeros((weight.shape[0], channels, *weight.shape[2:]))
    for out, block in _blocks(weight, channels):
        dense[out, block] = weight[out]
    return dense


def _grouped_weight(dense: Array, weight: Array) -> Array:
    grouped = np.zeros_like(weight)
    for out, block in _blocks(weight, dense.shape[1]):
        grouped[out] = dense[out, block]
    return grouped


def _blocks(weight: Array, channels: int) -> Iterator[tuple[int, slice]]:
    """Yield each output channel with the input channels of its weight group."""
    seen, outputs = weight.shape[1], weight.shape[0]
    for out in range(outputs):
        group = out * (channels // seen) // outputs
        yield out, slice(group * seen, (group + 1) * seen)


def as_float64(tensor: Any) -> Array | None:
    """Return a torch tensor as a float64 array, and None as None."""
    return None if tensor is None else np.asarray(tensor.detach().cpu().double().numpy())
