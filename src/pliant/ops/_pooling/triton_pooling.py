# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the poolings of boxes. A program owns one bin, so that all it writes but the image is its own.

The image is (planes, H, W, C) in memory: a plane is one image, or one of its groups of channels. `sides`, `shift` and
`mask` are contiguous and in the type of arithmetic, as bins.py describes them. ALIGNED is RoIAlign's rule of where
samples stand and which count; without it, the position-sensitive operator's. Indices are 64 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ["H", "W", "R"]
RANGE = ["first_class", "begin", "end", "width"]


@triton.jit
def _quotient(a, b):
    """Return a / b rounded as IEEE has it, which `/` of float32 is not on NVIDIA: a sample may stand on a pixel."""
    b = tl.cast(b, a.dtype)
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def _sample_range(base, step, samples, size, ALIGNED: tl.constexpr):
    """Return the samples [first, last) among which are all inside the image: a huge box is as quick as any other."""
    lower = -1.0 if ALIGNED else -0.5
    upper = size.to(base.dtype) - (0.0 if ALIGNED else 0.5)
    a = _quotient(lower - base, step)
    b = _quotient(upper - base, step)
    few = (samples <= 16) | (step == 0)
    first = tl.where(few, 0.0, tl.maximum(tl.minimum(a, b) - 3, 0.0))
    last = tl.where(few, samples, tl.minimum(tl.maximum(a, b) + 3, samples))
    # NaN fails every comparison: no sample.
    exists = (base - base == 0) & (step - step == 0) & (first < last)
    return tl.where(exists, first, 0.0).to(tl.int32), tl.where(exists, last, 0.0).to(tl.int32)


@triton.jit
def _axis(sides, shift, bin, size, BINS: tl.constexpr, ALIGNED: tl.constexpr):
    """Return along one axis where a bin's samples begin, their step, the bin's extent, and which samples to look at."""
    start = tl.load(sides)
    extent = _quotient(tl.load(sides + 1), BINS)
    samples = tl.load(sides + 2)
    before = bin.to(extent.dtype) * extent
    base = (start + shift) + before if ALIGNED else (start + before) + shift
    step = _quotient(extent, samples)
    first, last = _sample_range(base, step, samples, size, ALIGNED)
    return base, step, extent, samples, first, last


@triton.jit
def _sample(i, base, step, extent, samples, bin, size, BINS: tl.constexpr, ALIGNED: tl.constexpr):
    """Return for samples along one axis: whether they are read; the pixels around each and how far it is between them;
    the slope of that in the position; and the sample's place in the box, 0 to 1.
    """  # noqa: D205
    place = i.to(base.dtype) + (0.5 if ALIGNED else 0.0)
    position = base + (_quotient(place * extent, samples) if ALIGNED else place * step)
    border = (size - 1).to(base.dtype)
    reach = 1.0 if ALIGNED else 0.5
    inside = (position >= -reach) & (position <= border + reach)
    held = tl.minimum(tl.maximum(tl.where(inside, position, 0.0), 0.0), border)
    low = held.to(tl.int32)
    high = tl.minimum(low + 1, size - 1)
    fraction = held - low.to(base.dtype)
    # Flat where held; on a pixel the slope is the right-hand one, or, by the position-sensitive operator's rule, 0.
    slopes = (position >= 0) & (high > low) if ALIGNED else fraction > 0
    slope = tl.where(inside & slopes, 1.0, 0.0).to(base.dtype)
    return inside, low, high, fraction, slope, _quotient(bin.to(base.dtype) + _quotient(place, samples), BINS)


@triton.jit
def _mean(count, ny, nx, ALIGNED: tl.constexpr):
    """Return the share of a sample in the mean: of all samples, or of the `count` that are read."""
    n = ny * nx if ALIGNED else count
    return tl.where(n > 0, _quotient(n * 0 + 1, tl.where(n > 0, n, 1.0)), 0.0)


@triton.jit
def _bin_of(
    pid, kind, sides, shift, PH: tl.constexpr, PW: tl.constexpr, CLASSES: tl.constexpr, HAS_SHIFT: tl.constexpr
):
    """Return a program's box, its bin's row and column, and the bin's shifts in y and x for class `kind`."""
    box = (pid // (PH * PW)).to(tl.int64)
    bin = pid % (PH * PW)
    dx = tl.load(sides) * 0
    dy = dx
    if HAS_SHIFT:
        at = shift + (box * CLASSES + kind) * (2 * PH * PW) + bin
        dx = tl.load(at)
        dy = tl.load(at + PH * PW)
    return box, bin // PW, bin % PW, dy, dx


@triton.jit
def _plane(planes, box, by, bx, PH: tl.constexpr, PW: tl.constexpr, GROUPS: tl.constexpr):
    """Return the plane that a bin reads: the box's image, and in it the group of the bin's place."""
    group = by * GROUPS // PH * GROUPS + bx * GROUPS // PW
    return tl.load(planes + box) * (GROUPS * GROUPS) + group


@triton.jit
def _pixels(plane, row, column, W, C: tl.constexpr, c, wanted, CT: tl.constexpr):
    """Return channels `c` of one pixel for each sample, (samples, channels)."""
    place = (row * W + column).to(tl.int64)[:, None] * C + c[None, :]
    return tl.load(plane + place, mask=wanted, other=0.0).to(CT)


@triton.jit(do_not_specialize=SIZES)
def pool_bins(
    image, planes, sides, shift, mask, output, H, W, R,
    PH: tl.constexpr, PW: tl.constexpr, C: tl.constexpr, CLASSES: tl.constexpr, GROUPS: tl.constexpr,
    HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr, ALIGNED: tl.constexpr, CT: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the mean of one bin for a block of the channels of one class; `output` is (R, C, PH, PW)."""
    PER_CLASS: tl.constexpr = C // CLASSES
    BLOCKS: tl.constexpr = (PER_CLASS + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    kind = tl.program_id(1) // BLOCKS
    within = tl.program_id(1) % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = within < PER_CLASS
    c = kind * PER_CLASS + within
    box, by, bx, dy, dx = _bin_of(pid, kind, sides, shift, PH, PW, CLASSES, HAS_SHIFT)
    y0, sy, ey, ny, y_first, y_last = _axis(sides + box * 6, dy, by, H, PH, ALIGNED)
    x0, sx, ex, nx, x_first, x_last = _axis(sides + box * 6 + 3, dx, bx, W, PW, ALIGNED)
    plane = image + _plane(planes, box, by, bx, PH, PW, GROUPS) * H * W * C
    acc = tl.zeros([BLOCK_C], CT)
    count = ny * 0
    across = tl.maximum(x_last - x_first, 1)
    total = (y_last - y_first) * (x_last - x_first)
    for first in range(0, total, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        in_y, top, bottom, fy, _, _ = _sample(y_first + s // across, y0, sy, ey, ny, by, H, PH, ALIGNED)
        in_x, left, right, fx, _, _ = _sample(x_first + s % across, x0, sx, ex, nx, bx, W, PW, ALIGNED)
        read = in_y & in_x & (s < total)
        wanted = read[:, None] & exists[None, :]
        v00 = _pixels(plane, top, left, W, C, c, wanted, CT)
        v01 = _pixels(plane, top, right, W, C, c, wanted, CT)
        v10 = _pixels(plane, bottom, left, W, C, c, wanted, CT)
        v11 = _pixels(plane, bottom, right, W, C, c, wanted, CT)
        fy, fx = fy[:, None], fx[:, None]
        acc += tl.sum((1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11), 0)
        count += tl.sum(read.to(CT), 0)
    factor = _mean(count, ny, nx, ALIGNED)
    if HAS_MASK:
        factor *= tl.load(mask + (box * CLASSES + kind) * (PH * PW) + by * PW + bx)
    place = (box * C + c) * (PH * PW) + by * PW + bx
    tl.store(output + place, (acc * factor).to(output.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=SIZES)
def sum_products(
    image, planes, sides, shift, mask, grad, products, H, W, R,
    PH: tl.constexpr, PW: tl.constexpr, C: tl.constexpr, CLASSES: tl.constexpr, GROUPS: tl.constexpr,
    HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr, ALIGNED: tl.constexpr, CT: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the five sums over the channels of one class that the gradients of a bin's mask, shift and box consist of.

    `products` is (R, CLASSES, PH, PW, 5), in the order of bins.py.
    """
    PER_CLASS: tl.constexpr = C // CLASSES
    pid = tl.program_id(0)
    kind = tl.program_id(1)
    box, by, bx, dy, dx = _bin_of(pid, kind, sides, shift, PH, PW, CLASSES, HAS_SHIFT)
    y0, sy, ey, ny, y_first, y_last = _axis(sides + box * 6, dy, by, H, PH, ALIGNED)
    x0, sx, ex, nx, x_first, x_last = _axis(sides + box * 6 + 3, dx, bx, W, PW, ALIGNED)
    plane = image + _plane(planes, box, by, bx, PH, PW, GROUPS) * H * W * C
    zeros = tl.zeros([BLOCK_S, BLOCK_C], CT)
    count = ny * 0
    value, slope_y, slope_x, moment_y, moment_x = zeros, zeros, zeros, zeros, zeros
    across = tl.maximum(x_last - x_first, 1)
    total = (y_last - y_first) * (x_last - x_first)
    for block in range((PER_CLASS + BLOCK_C - 1) // BLOCK_C):
        within = block * BLOCK_C + tl.arange(0, BLOCK_C)
        exists = within < PER_CLASS
        c = kind * PER_CLASS + within
        u = tl.load(grad + (box * C + c) * (PH * PW) + by * PW + bx, mask=exists, other=0.0).to(CT)[None, :]
        count = ny * 0
        for first in range(0, total, BLOCK_S):
            s = first + tl.arange(0, BLOCK_S)
            in_y, top, bottom, fy, my, ty = _sample(y_first + s // across, y0, sy, ey, ny, by, H, PH, ALIGNED)
            in_x, left, right, fx, mx, tx = _sample(x_first + s % across, x0, sx, ex, nx, bx, W, PW, ALIGNED)
            read = in_y & in_x & (s < total)
            wanted = read[:, None] & exists[None, :]
            v00 = _pixels(plane, top, left, W, C, c, wanted, CT)
            v01 = _pixels(plane, top, right, W, C, c, wanted, CT)
            v10 = _pixels(plane, bottom, left, W, C, c, wanted, CT)
            v11 = _pixels(plane, bottom, right, W, C, c, wanted, CT)
            fy, fx = fy[:, None], fx[:, None]
            value += u * ((1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11))
            y_slope = u * my[:, None] * ((1 - fx) * (v10 - v00) + fx * (v11 - v01))
            x_slope = u * mx[:, None] * ((1 - fy) * (v01 - v00) + fy * (v11 - v10))
            slope_y += y_slope
            slope_x += x_slope
            moment_y += y_slope * ty[:, None]
            moment_x += x_slope * tx[:, None]
            count += tl.sum(read.to(CT), 0)
    mean = _mean(count, ny, nx, ALIGNED)
    at = (box * CLASSES + kind) * (PH * PW) + by * PW + bx
    factor = mean
    if HAS_MASK:
        factor *= tl.load(mask + at)
    tl.store(products + at * 5, tl.sum(tl.sum(value, 1), 0) * mean)
    tl.store(products + at * 5 + 1, tl.sum(tl.sum(slope_y, 1), 0) * factor)
    tl.store(products + at * 5 + 2, tl.sum(tl.sum(slope_x, 1), 0) * factor)
    tl.store(products + at * 5 + 3, tl.sum(tl.sum(moment_y, 1), 0) * factor)
    tl.store(products + at * 5 + 4, tl.sum(tl.sum(moment_x, 1), 0) * factor)


@triton.jit
def _add(plane, pixel, width, value, scale, mask, FIXED: tl.constexpr):
    """Add to pixels in no fixed order; FIXED adds whole multiples of 1 / scale, whose sum no order changes."""
    target = plane + pixel.to(tl.int64)[:, None] * width
    if FIXED:
        tl.atomic_add(target, tl.floor(value * scale + 0.5).to(tl.int64), mask=mask, sem="relaxed")
    else:
        tl.atomic_add(target, value, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=SIZES + RANGE)
def scatter_gradient(
    planes, sides, shift, mask, grad, scale, grad_image, H, W, R, first_class, begin, end, width,
    PH: tl.constexpr, PW: tl.constexpr, C: tl.constexpr, CLASSES: tl.constexpr, GROUPS: tl.constexpr,
    HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr, ALIGNED: tl.constexpr, CT: tl.constexpr, FIXED: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Add a bin's gradient to the pixels that it read, for channels [begin, end) of each class from `first_class` on.

    `grad_image` is (planes, H, W, width), of these channels alone.
    """
    PER_CLASS: tl.constexpr = C // CLASSES
    pid = tl.program_id(0)
    blocks = tl.cdiv(end - begin, BLOCK_C)
    kind = first_class + tl.program_id(1) // blocks
    within = begin + tl.program_id(1) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = within < end
    box, by, bx, dy, dx = _bin_of(pid, kind, sides, shift, PH, PW, CLASSES, HAS_SHIFT)
    y0, sy, ey, ny, y_first, y_last = _axis(sides + box * 6, dy, by, H, PH, ALIGNED)
    x0, sx, ex, nx, x_first, x_last = _axis(sides + box * 6 + 3, dx, bx, W, PW, ALIGNED)
    count = ny * 0
    across = tl.maximum(x_last - x_first, 1)
    total = (y_last - y_first) * (x_last - x_first)
    if not ALIGNED:
        for first in range(0, total, BLOCK_S):
            s = first + tl.arange(0, BLOCK_S)
            in_y, top, bottom, fy, _, _ = _sample(y_first + s // across, y0, sy, ey, ny, by, H, PH, ALIGNED)
            in_x, left, right, fx, _, _ = _sample(x_first + s % across, x0, sx, ex, nx, bx, W, PW, ALIGNED)
            read = in_y & in_x & (s < total)
            count += tl.sum(read.to(CT), 0)
    factor = _mean(count, ny, nx, ALIGNED)
    if HAS_MASK:
        factor *= tl.load(mask + (box * CLASSES + kind) * (PH * PW) + by * PW + bx)
    place = (box * C + kind * PER_CLASS + within) * (PH * PW) + by * PW + bx
    u = tl.load(grad + place, mask=exists, other=0.0).to(CT) * factor
    u = u[None, :]
    unit = tl.load(scale) if FIXED else 1.0
    plane = grad_image + _plane(planes, box, by, bx, PH, PW, GROUPS) * H * W * width
    plane += ((kind - first_class) * PER_CLASS + within - begin)[None, :]
    for first in range(0, total, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        in_y, top, bottom, fy, _, _ = _sample(y_first + s // across, y0, sy, ey, ny, by, H, PH, ALIGNED)
        in_x, left, right, fx, _, _ = _sample(x_first + s % across, x0, sx, ex, nx, bx, W, PW, ALIGNED)
        read = in_y & in_x & (s < total)
        wanted = read[:, None] & exists[None, :]
        wy, wx = (fy > 0)[:, None], (fx > 0)[:, None]  # a pixel that weighs nothing is left alone
        fy, fx = fy[:, None], fx[:, None]
        _add(plane, top * W + left, width, u * (1 - fy) * (1 - fx), unit, wanted, FIXED)
        _add(plane, top * W + right, width, u * (1 - fy) * fx, unit, wanted & wx, FIXED)
        _add(plane, bottom * W + left, width, u * fy * (1 - fx), unit, wanted & wy, FIXED)
        _add(plane, bottom * W + right, width, u * fy * fx, unit, wanted & wy & wx, FIXED)
