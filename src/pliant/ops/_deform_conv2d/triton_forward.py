# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the forward pass: one that gathers and multiplies in the same loop, one for tiny groups."""

from __future__ import annotations

import triton
import triton.language as tl

from pliant.ops._deform_conv2d.triton_sampling import (
    corner_exists,
    corner_weights,
    load_corners,
    modulation,
    positions_of_tile,
    sampling_cell,
    widen,
)

# Sizes change from image to image, and specialising on them would compile anew for each combination.
SIZES = ["N", "H", "W", "Ho", "Wo"]
GEOMETRY = ["STEP_Y", "STEP_X", "PAD_Y", "PAD_X", "DILATION_Y", "DILATION_X"]
STRIDES = ["o_n", "o_c", "o_h", "o_w", "m_n", "m_c", "m_h", "m_w"]


@triton.jit
def _store(y, total, n, oy, ox, exists, o, o_exists, Ho, Wo, O: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    position = oy * Wo + ox
    if CHANNELS_LAST:
        place = ((n * (Ho * Wo) + position) * O)[:, None] + o[None, :]
    else:
        place = (n * O * (Ho * Wo) + position)[:, None] + (o * (Ho * Wo))[None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=exists[:, None] & o_exists[None, :])


@triton.jit(do_not_specialize=SIZES + GEOMETRY, do_not_specialize_on_alignment=STRIDES)
def fused_convolution(
    x, offset, mask, weight, bias, y,
    N, H, W, Ho, Wo, o_n, o_c, o_h, o_w, m_n, m_c, m_h, m_w,
    STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X,
    KW: tl.constexpr, K: tl.constexpr, C: tl.constexpr, O: tl.constexpr, GROUPS: tl.constexpr,
    OFFSET_GROUPS: tl.constexpr, SEGMENT: tl.constexpr, HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, CT: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr,
    PATCH: tl.constexpr, STAGES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute a tile of positions times output channels of one group; weight is (O, K, C/GROUPS).

    SEGMENT channels in a row lie in one weight group and in one offset group. Columns are rounded to the image's type
    once, just before they are multiplied; sums are float32.
    """
    PER_GROUP: tl.constexpr = C // GROUPS
    SEGMENTS: tl.constexpr = PER_GROUP // SEGMENT
    BLOCKS: tl.constexpr = (SEGMENT + BLOCK_C - 1) // BLOCK_C
    OUT: tl.constexpr = O // GROUPS
    OUT_BLOCKS: tl.constexpr = (OUT + BLOCK_N - 1) // BLOCK_N
    group = tl.program_id(1) // OUT_BLOCKS
    n, oy, ox, exists = positions_of_tile(tl.program_id(0), N, Ho, Wo, BLOCK_M, PATCH, WIDE)
    out = tl.program_id(1) % OUT_BLOCKS * BLOCK_N + tl.arange(0, BLOCK_N)
    out_exists = out < OUT
    out = widen(group * OUT + out, WIDE)
    offset += n * o_n + oy * o_h + ox * o_w
    if HAS_MASK:
        mask += n * m_n + oy * m_h + ox * m_w
    channels = tl.arange(0, BLOCK_C)
    row = W * C
    acc = tl.zeros([BLOCK_M, BLOCK_N], CT)
    for step in range(K * SEGMENTS):
        tap = step // SEGMENTS
        segment = step % SEGMENTS
        first = (group * SEGMENTS + segment) * SEGMENT
        at = widen(first // (C // OFFSET_GROUPS) * K + tap, WIDE)
        top, left, fy, fx, inside = sampling_cell(
            offset, o_c, at, exists, oy, ox, tap, H, W,
            STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X, KW, CT, WIDE,
        )  # fmt: skip
        w00, w01, w10, w11 = corner_weights(fy, fx, modulation(mask, m_c, at, inside, HAS_MASK, CT))
        e00, e01, e10, e11 = corner_exists(top, left, inside, H, W)
        pixel = (x + (((n * H + top) * W + left) * C + first))[:, None] + channels[None, :]
        for block in tl.range(BLOCKS, num_stages=STAGES):
            c0 = block * BLOCK_C
            c_exists = tl.full([BLOCK_C], True, tl.int1) if SEGMENT % BLOCK_C == 0 else c0 + channels < SEGMENT
            v00, v01, v10, v11 = load_corners(
                pixel + c0, row, C, e00[:, None] & c_exists[None, :], e01[:, None] & c_exists[None, :],
                e10[:, None] & c_exists[None, :], e11[:, None] & c_exists[None, :],
            )  # fmt: skip
            column = v00.to(CT) * w00[:, None] + v01.to(CT) * w01[:, None]
            column += v10.to(CT) * w10[:, None] + v11.to(CT) * w11[:, None]
            place = (out * (K * PER_GROUP))[None, :] + (tap * PER_GROUP + segment * SEGMENT + c0 + channels)[:, None]
            w = tl.load(weight + place, mask=out_exists[None, :] & c_exists[:, None], other=0.0)
            acc = tl.dot(column.to(w.dtype).to(DT), w.to(DT), acc, input_precision=PRECISION, out_dtype=CT)
    if HAS_BIAS:
        acc += tl.load(bias + out, mask=out_exists, other=0.0).to(CT)[None, :]
    _store(y, acc, n, oy, ox, exists, out, out_exists, Ho, Wo, O, CHANNELS_LAST)


@triton.jit(do_not_specialize=SIZES + GEOMETRY, do_not_specialize_on_alignment=STRIDES)
def elementwise_convolution(
    x, offset, mask, weight, bias, y,
    N, H, W, Ho, Wo, o_n, o_c, o_h, o_w, m_n, m_c, m_h, m_w,
    STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X,
    KW: tl.constexpr, K: tl.constexpr, C: tl.constexpr, O: tl.constexpr, GROUPS: tl.constexpr,
    OFFSET_GROUPS: tl.constexpr, SHARED: tl.constexpr, HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, CT: tl.constexpr,
    PATCH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compute a tile where a group has too few channels for a matrix product; weight is (K, C/GROUPS, O).

    With SHARED all output channels of a tile read through one offset group, and a tap has one cell for all of them.
    """
    PER_GROUP: tl.constexpr = C // GROUPS
    OUT: tl.constexpr = O // GROUPS
    PER_OFFSET: tl.constexpr = C // OFFSET_GROUPS
    n, oy, ox, exists = positions_of_tile(tl.program_id(0), N, Ho, Wo, BLOCK_M, PATCH, WIDE)
    out = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    out_exists = out < O
    offset = (offset + (n * o_n + oy * o_h + ox * o_w))[:, None]
    if HAS_MASK:
        mask = (mask + (n * m_n + oy * m_h + ox * m_w))[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], CT)
    for step in range(K * PER_GROUP):
        tap = step // PER_GROUP
        c = out // OUT * PER_GROUP + step % PER_GROUP
        if SHARED:
            offset_group = tl.program_id(1) * BLOCK_N // OUT * PER_GROUP // PER_OFFSET + tl.zeros([1, 1], tl.int32)
            sampled = exists[:, None]
        else:
            offset_group = (c // PER_OFFSET)[None, :]
            sampled = exists[:, None] & out_exists[None, :]
        at = widen(offset_group * K + tap, WIDE)
        top, left, fy, fx, inside = sampling_cell(
            offset, o_c, at, sampled, oy[:, None], ox[:, None], tap, H, W,
            STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X, KW, CT, WIDE,
        )  # fmt: skip
        w00, w01, w10, w11 = corner_weights(fy, fx, modulation(mask, m_c, at, inside, HAS_MASK, CT))
        e00, e01, e10, e11 = corner_exists(top, left, inside & out_exists[None, :], H, W)
        pixel = x + ((n[:, None] * H + top) * W + left) * C + c[None, :]
        v00, v01, v10, v11 = load_corners(pixel, W * C, C, e00, e01, e10, e11)
        column = v00.to(CT) * w00 + v01.to(CT) * w01 + v10.to(CT) * w10 + v11.to(CT) * w11
        w = tl.load(weight + step * O + out, mask=out_exists, other=0.0).to(CT)
        acc += column * w[None, :]
    if HAS_BIAS:
        acc += tl.load(bias + out, mask=out_exists, other=0.0).to(CT)[None, :]
    _store(y, acc, n, oy, ox, exists, widen(out, WIDE), out_exists, Ho, Wo, O, CHANNELS_LAST)
