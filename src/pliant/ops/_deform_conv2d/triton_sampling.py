# SPDX-License-Identifier: Apache-2.0
"""What every Triton kernel of the deformable convolution is made of: positions, cells, corners.

Images are (N, H, W, C) in memory. Offsets and masks have any strides. A position is an index into N*Ho*Wo. Coordinates
and interpolation are float32 (float64 for float64), whatever the storage type. `WIDE` makes indices 64 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widen(index, WIDE: tl.constexpr):
    """Return a tensor of indices in 64 bits where `WIDE` asks for them."""
    return index.to(tl.int64) if WIDE else index


@triton.jit
def positions_in_rows(position, Ho, Wo, WIDE: tl.constexpr):
    """Return image, row and column of positions."""
    n = position // (Ho * Wo)
    oy = position // Wo % Ho
    ox = position % Wo
    return widen(n, WIDE), widen(oy, WIDE), widen(ox, WIDE)


@triton.jit
def positions_of_tile(tile, N, Ho, Wo, BLOCK_M: tl.constexpr, PATCH: tl.constexpr, WIDE: tl.constexpr):
    """Return image, row, column and existence of a tile's positions.

    With `PATCH` 0 a tile is a run of positions; else it is PATCH columns wide, so that its samples share more pixels.
    """
    i = tl.arange(0, BLOCK_M)
    if PATCH == 0:
        position = tile * BLOCK_M + i
        n, oy, ox = positions_in_rows(position, Ho, Wo, WIDE)
        exists = position < N * Ho * Wo
    else:
        across = tl.cdiv(Wo, PATCH)
        down = tl.cdiv(Ho, BLOCK_M // PATCH)
        within = tile % (across * down)
        n = widen(tile // (across * down) + tl.zeros([BLOCK_M], tl.int32), WIDE)
        oy = widen(within // across * (BLOCK_M // PATCH) + i // PATCH, WIDE)
        ox = widen(within % across * PATCH + i % PATCH, WIDE)
        exists = (oy < Ho) & (ox < Wo)
    return n, oy, ox, exists


@triton.jit
def sampling_cell(
    offset, stride_c, channel, exists, oy, ox, tap, H, W,
    STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X,
    KW: tl.constexpr, CT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return the cell of a sample (its top and left pixel), the position in it, and whether it touches the image.

    `offset` points at the output position; `channel` is offset group times taps plus tap. What does not touch the
    image, NaN and infinities among it, is moved to the position 0 of cell 0, which nothing then reads.
    """
    dy = tl.load(offset + 2 * channel * stride_c, mask=exists, other=0.0).to(CT)
    dx = tl.load(offset + (2 * channel + 1) * stride_c, mask=exists, other=0.0).to(CT)
    y = (oy * STEP_Y - PAD_Y + tap // KW * DILATION_Y).to(CT) + dy
    x = (ox * STEP_X - PAD_X + tap % KW * DILATION_X).to(CT) + dx
    # -1 is inside: the value there is 0 either way, and the slope is the right-hand one, as at every integer.
    inside = exists & (y >= -1) & (y < H) & (x >= -1) & (x < W)  # false for NaN
    y = tl.where(inside, y, 0.0)
    x = tl.where(inside, x, 0.0)
    top = tl.floor(y)
    left = tl.floor(x)
    return widen(top.to(tl.int32), WIDE), widen(left.to(tl.int32), WIDE), y - top, x - left, inside


@triton.jit
def modulation(mask, stride_c, channel, inside, HAS_MASK: tl.constexpr, CT: tl.constexpr):
    """Return the mask of each sample, 1 without a mask, and 0 outside the image."""
    m = tl.load(mask + channel * stride_c, mask=inside, other=0.0) if HAS_MASK else tl.where(inside, 1.0, 0.0)
    return m.to(CT)


@triton.jit
def corner_exists(top, left, inside, H, W):
    """Return which of the four pixels around a sample the image has."""
    up = inside & (top >= 0)
    down = inside & (top + 1 < H)
    return up & (left >= 0), up & (left + 1 < W), down & (left >= 0), down & (left + 1 < W)


@triton.jit
def load_corners(pixel, row, C: tl.constexpr, e00, e01, e10, e11):
    """Return the pixels (top, left), (top, right), (bottom, left), (bottom, right), 0 where they do not exist."""
    v00 = tl.load(pixel, mask=e00, other=0.0)
    v01 = tl.load(pixel + C, mask=e01, other=0.0)
    v10 = tl.load(pixel + row, mask=e10, other=0.0)
    v11 = tl.load(pixel + row + C, mask=e11, other=0.0)
    return v00, v01, v10, v11


@triton.jit
def corner_weights(fy, fx, scale):
    """Return the bilinear weights of the four corners, times `scale`."""
    upper = (1.0 - fy) * scale
    lower = fy * scale
    return upper * (1.0 - fx), upper * fx, lower * (1.0 - fx), lower * fx
