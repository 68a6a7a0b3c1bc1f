# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the backward pass, which gather and multiply elementwise; PyTorch's libraries do the products.

A slice is WIDTH channels, of which RUN lie in one offset group, `group` the first; a chunk is `count` positions from
`first` on. Columns and their gradients are (position, weight group, tap, channel of the group) in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pliant.ops._deform_conv2d.triton_forward import GEOMETRY, SIZES, STRIDES
from pliant.ops._deform_conv2d.triton_sampling import (
    corner_exists,
    corner_weights,
    load_corners,
    modulation,
    positions_in_rows,
    sampling_cell,
    widen,
)

CHUNK = ["first", "count", "group"]
GATHER = ["total", "H", "W", "first_sample", "image", "first_image", "group"]


@triton.jit
def _column_of(c, PER_GROUP: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr):
    """Return where tap 0 of the slice's channel `c` stands in a column."""
    return c if PER_GROUP == WIDTH else c // PER_GROUP * (K * PER_GROUP) + c % PER_GROUP


@triton.jit
def _scatter(target, row, C: tl.constexpr, g, w00, w01, w10, w11, e00, e01, e10, e11, c_exists):
    """Add a sample's gradient to the four pixels that it read, in no fixed order."""
    tl.atomic_add(target, g * w00[:, None], mask=e00[:, None] & c_exists, sem="relaxed")
    tl.atomic_add(target + C, g * w01[:, None], mask=e01[:, None] & c_exists, sem="relaxed")
    tl.atomic_add(target + row, g * w10[:, None], mask=e10[:, None] & c_exists, sem="relaxed")
    tl.atomic_add(target + row + C, g * w11[:, None], mask=e11[:, None] & c_exists, sem="relaxed")


@triton.jit
def _store_maps(
    grad_offset, grad_mask, s00, s01, s10, s11, fy, fx, m, n, p, P, at, exists,
    K: tl.constexpr, OFFSET_GROUPS: tl.constexpr, HAS_MASK: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """Store the gradients of offset and mask from the sums over channels of column gradient times corner."""
    place = (n * (2 * OFFSET_GROUPS * K) + 2 * at) * P + p
    dy = m * ((1.0 - fx) * (s10 - s00) + fx * (s11 - s01))
    dx = m * ((1.0 - fy) * (s01 - s00) + fy * (s11 - s10))
    if ACCUMULATE:
        dy += tl.load(grad_offset + place, mask=exists, other=0.0)
        dx += tl.load(grad_offset + place + P, mask=exists, other=0.0)
    tl.store(grad_offset + place, dy.to(grad_offset.dtype.element_ty), mask=exists)
    tl.store(grad_offset + place + P, dx.to(grad_offset.dtype.element_ty), mask=exists)
    if HAS_MASK:
        place = (n * (OFFSET_GROUPS * K) + at) * P + p
        dm = (1.0 - fy) * ((1.0 - fx) * s00 + fx * s01) + fy * ((1.0 - fx) * s10 + fx * s11)
        if ACCUMULATE:
            dm += tl.load(grad_mask + place, mask=exists, other=0.0)
        tl.store(grad_mask + place, dm.to(grad_mask.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=SIZES + GEOMETRY + CHUNK, do_not_specialize_on_alignment=STRIDES)
def sample_backward(
    x, offset, mask, weight, grad_column, column, grad_image, grad_offset, grad_mask,
    N, H, W, Ho, Wo, o_n, o_c, o_h, o_w, m_n, m_c, m_h, m_w,
    STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X, first, count, group,
    KW: tl.constexpr, K: tl.constexpr, C: tl.constexpr, OFFSET_GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    PER_GROUP: tl.constexpr, RUN: tl.constexpr, DEPTHWISE: tl.constexpr, HAS_MASK: tl.constexpr,
    NEED_MAPS: tl.constexpr, NEED_COLUMN: tl.constexpr, SCATTER: tl.constexpr, ACCUMULATE: tl.constexpr,
    WIDE: tl.constexpr, CT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Read the pixels of each sample once for everything: gradients of offset and mask, columns, scattered gradient.

    A program owns a tile of positions, a tap and an offset group, so that the gradients of offset and mask are
    complete in it. DEPTHWISE reads the output's gradient (position, channel) in place of the columns', and writes sums
    of columns over its tile, the weights' gradient, in place of columns. SCATTER adds the image's gradient atomically.
    """
    tap = tl.program_id(0) % K
    tile = tl.program_id(0) // K
    i = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = i < count
    n, oy, ox = positions_in_rows(first + i, Ho, Wo, WIDE)
    at = widen((group + tl.program_id(1)) * K + tap, WIDE)
    top, left, fy, fx, inside = sampling_cell(
        offset + (n * o_n + oy * o_h + ox * o_w), o_c, at, exists, oy, ox, tap, H, W,
        STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X, KW, CT, WIDE,
    )  # fmt: skip
    if HAS_MASK:
        mask += n * m_n + oy * m_h + ox * m_w
    m = modulation(mask, m_c, at, inside, HAS_MASK, CT)
    w00, w01, w10, w11 = corner_weights(fy, fx, m)
    e00, e01, e10, e11 = corner_exists(top, left, inside, H, W)
    pixel = ((n * H + top) * W + left) * C
    row = W * C
    zeros = tl.zeros([BLOCK_M, BLOCK_C], CT)
    s00, s01, s10, s11 = zeros, zeros, zeros, zeros
    for block in range((RUN + BLOCK_C - 1) // BLOCK_C):
        within = block * BLOCK_C + tl.arange(0, BLOCK_C)
        c = tl.program_id(1) * RUN + within
        c_exists = (tl.full([BLOCK_C], True, tl.int1) if RUN % BLOCK_C == 0 else within < RUN)[None, :]
        place = pixel[:, None] + c[None, :]
        v00, v01, v10, v11 = load_corners(
            x + place, row, C, e00[:, None] & c_exists, e01[:, None] & c_exists,
            e10[:, None] & c_exists, e11[:, None] & c_exists,
        )  # fmt: skip
        v00, v01, v10, v11 = v00.to(CT), v01.to(CT), v10.to(CT), v11.to(CT)
        wanted = exists[:, None] & c_exists
        if DEPTHWISE:
            u = tl.load(grad_column + i[:, None] * WIDTH + c[None, :], mask=wanted, other=0.0).to(CT)
            g = u * tl.load(weight + tap * WIDTH + c[None, :], mask=c_exists, other=0.0).to(CT)
        else:
            taps = _column_of(c, PER_GROUP, WIDTH, K) + tap * PER_GROUP
            column_place = i[:, None] * (K * WIDTH) + taps[None, :]
            if NEED_MAPS or SCATTER:
                g = tl.load(grad_column + column_place, mask=wanted, other=0.0).to(CT)
        if NEED_MAPS:
            s00 += g * v00
            s01 += g * v01
            s10 += g * v10
            s11 += g * v11
        if SCATTER:
            _scatter(grad_image + place, row, C, g, w00, w01, w10, w11, e00, e01, e10, e11, c_exists)
        if NEED_COLUMN:
            value = v00 * w00[:, None] + v01 * w01[:, None] + v10 * w10[:, None] + v11 * w11[:, None]
            if DEPTHWISE:
                sums = tl.sum(u * value, 0)
                tl.store(column + (tile * K + tap) * WIDTH + c, sums, mask=within < RUN)
            else:
                tl.store(column + column_place, value.to(column.dtype.element_ty), mask=wanted)
    if NEED_MAPS:
        _store_maps(
            grad_offset, grad_mask, tl.sum(s00, 1), tl.sum(s01, 1), tl.sum(s10, 1), tl.sum(s11, 1), fy, fx, m,
            n, oy * Wo + ox, Ho * Wo, at, exists, K, OFFSET_GROUPS, HAS_MASK, ACCUMULATE,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[*SIZES, *GEOMETRY, "first", "total", "group", "image"], do_not_specialize_on_alignment=STRIDES
)
def sample_cells(
    offset, mask, key, place, total,
    N, H, W, Ho, Wo, o_n, o_c, o_h, o_w, m_n, m_c, m_h, m_w,
    STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X, first, image, images, group,
    KW: tl.constexpr, K: tl.constexpr, GROUPS_HERE: tl.constexpr, HAS_MASK: tl.constexpr,
    WIDE: tl.constexpr, CT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute for each sample (position, tap, offset group) the cell it lies in, the place in it, and its modulation.

    Cells are numbered by image, offset group, row and column of their top left pixel, -1 first. What touches nothing
    gets a number past the last cell.
    """
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = e < total
    tap = e // GROUPS_HERE % K
    n, oy, ox = positions_in_rows(first + e // (GROUPS_HERE * K), Ho, Wo, WIDE)
    at = widen((group + e % GROUPS_HERE) * K + tap, WIDE)
    top, left, fy, fx, inside = sampling_cell(
        offset + (n * o_n + oy * o_h + ox * o_w), o_c, at, exists, oy, ox, tap, H, W,
        STEP_Y, STEP_X, PAD_Y, PAD_X, DILATION_Y, DILATION_X, KW, CT, WIDE,
    )  # fmt: skip
    if HAS_MASK:
        mask += n * m_n + oy * m_h + ox * m_w
    m = modulation(mask, m_c, at, inside, HAS_MASK, CT)
    cell = (((n - image) * GROUPS_HERE + e % GROUPS_HERE) * (H + 1) + top + 1) * (W + 1) + left + 1
    cell = tl.where(inside, cell, images * GROUPS_HERE * (H + 1) * (W + 1))
    tl.store(key + e, cell.to(tl.int32), mask=exists)
    tl.store(place + e, fy, mask=exists)
    tl.store(place + total + e, fx, mask=exists)
    tl.store(place + 2 * total + e, m, mask=exists)


@triton.jit(do_not_specialize=GATHER)
def gather_gradient(
    grad_column, weight, order, start, place, grad_image, total,
    H, W, first_sample, image, first_image, group,
    K: tl.constexpr, STRIDE: tl.constexpr, WIDTH: tl.constexpr, PER_GROUP: tl.constexpr, RUN: tl.constexpr,
    GROUPS_HERE: tl.constexpr, DEPTHWISE: tl.constexpr, ACCUMULATE: tl.constexpr, CT: tl.constexpr,
    BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Add up the gradient of one pixel from the samples in the four cells around it, in sorted order: no atomics.

    `order` lists the samples by cell, and `start` says where in it each cell begins. Two cells side by side are
    neighbours there, so that the four are two runs. STRIDE elements of the result lie between two pixels.
    """
    pixel = tl.program_id(0)
    within = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_exists = within < RUN
    c = tl.program_id(1) * RUN + within
    group += tl.program_id(1)
    taps = _column_of(c, PER_GROUP, WIDTH, K)
    n = pixel // (H * W) + image
    y = pixel // W % H
    x = pixel % W
    target = grad_image + pixel.to(tl.int64) * STRIDE + c
    acc = tl.zeros([BLOCK_C], CT)
    if ACCUMULATE:
        acc += tl.load(target, mask=c_exists, other=0.0)
    for below in tl.static_range(2):  # 0: cells of whose upper row the pixel is, 1: of whose lower row
        cell = (((n - first_image) * GROUPS_HERE + group) * (H + 1) + y + 1 - below) * (W + 1) + x
        begin = tl.load(start + cell)
        middle = tl.load(start + cell + 1)
        end = tl.load(start + cell + 2)
        for j in range(begin, end, BLOCK_J):
            jj = j + tl.arange(0, BLOCK_J)
            j_exists = jj < end
            e = tl.load(order + jj, mask=j_exists, other=0).to(tl.int32)
            fy = tl.load(place + e, mask=j_exists, other=0.0)
            fx = tl.load(place + total + e, mask=j_exists, other=0.0)
            m = tl.load(place + 2 * total + e, mask=j_exists, other=0.0)
            if below == 0:
                fy = 1.0 - fy
            share = fy * m * tl.where(jj < middle, fx, 1.0 - fx)
            share = tl.where(j_exists, share, 0.0)
            sample = (e - first_sample) // GROUPS_HERE
            wanted = j_exists[:, None] & c_exists[None, :]
            if DEPTHWISE:
                u = tl.load(grad_column + (sample // K * WIDTH)[:, None] + c[None, :], mask=wanted, other=0.0)
                w = tl.load(weight + (sample % K * WIDTH)[:, None] + c[None, :], mask=wanted, other=0.0)
                g = u.to(CT) * w.to(CT)
            else:
                row = sample // K * (K * WIDTH) + sample % K * PER_GROUP
                g = tl.load(grad_column + row[:, None] + taps[None, :], mask=wanted, other=0.0).to(CT)
            acc += tl.sum(g * share[:, None], 0)
    tl.store(target, acc.to(grad_image.dtype.element_ty), mask=c_exists)
