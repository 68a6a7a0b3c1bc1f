# SPDX-License-Identifier: Apache-2.0
"""What the pooling kernels run on in the interpreter, which is slow: small cases; and wrong kernels to be caught."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from helpers.pooling.cases import BY_NAME, RoICase


class PoolRun(NamedTuple):
    """A case, and the path taken."""

    name: str
    case: RoICase
    dtype: torch.dtype = torch.float32
    cut: bool = False  # blocks of 16 channels, and gradients of a slice at a time
    fixed: bool = False  # deterministic: whole multiples of a small unit


class Mutant(NamedTuple):
    """One wrong line, and the run that must notice it."""

    name: str
    old: str
    new: str
    run: PoolRun


def small(name: str, boxes: int, bins: tuple[int, int], **changes: Any) -> RoICase:
    """Return a case of the suite with fewer boxes and bins."""
    return dataclasses.replace(BY_NAME[name], name=f"gpu_{name}", boxes=boxes, bins=bins, **changes)


PLAIN = PoolRun("asymmetric", small("asymmetric", 4, (1, 3)))
ADAPTIVE = PoolRun("adaptive", small("adaptive", 3, (2, 1)))
MANY = PoolRun("many_samples", small("asymmetric", 4, (1, 1), samples=17))
DYADIC = PoolRun("dyadic", small("dyadic", 8, (2, 1)))
ON_PIXELS = PoolRun("on_pixels", small("dyadic", 16, (1, 1), samples=1, offsets="none"))
PS = PoolRun("ps_asymmetric", small("ps_asymmetric", 3, (2, 3)))
PS_DYADIC = PoolRun("ps_dyadic", small("ps_dyadic", 8, (1, 2)))
WIDE = PoolRun("channels_37", small("channels_37", 2, (1, 2)), torch.float64, cut=True)
SUBSETS = (ON_PIXELS, PS_DYADIC)  # with which each subset of the gradients is computed
RUNS = (
    PLAIN,
    ADAPTIVE,
    MANY,
    ON_PIXELS,
    DYADIC,
    PoolRun("dyadic_adaptive", small("dyadic_adaptive", 6, (1, 2))),
    PoolRun("roi_align", small("roi_align", 3, (2, 1)), torch.float64),
    PoolRun("far_offsets", small("far_offsets", 5, (2, 1))),
    PoolRun("far_boxes", small("far_boxes", 12, (1, 1)), torch.float16),
    PoolRun("one_row", small("one_row", 3, (1, 2)), torch.bfloat16),
    PoolRun("channels_last", small("channels_last", 2, (2, 1)), torch.bfloat16),
    PoolRun("strided", small("strided", 2, (1, 2)), fixed=True),
    WIDE,
    PS,
    PS_DYADIC,
    PoolRun("ps_far_boxes", small("ps_far_boxes", 12, (1, 1)), cut=True),
    PoolRun("ps_far_offsets", small("ps_far_offsets", 4, (1, 3))),
    PoolRun("ps_more_groups_than_bins", small("ps_more_groups_than_bins", 2, (2, 3)), torch.float64, fixed=True),
    PoolRun("ps_mask_alone", small("ps_mask_alone", 3, (2, 1)), torch.float16),
    PoolRun("ps_v1", small("ps_v1", 2, (3, 1), samples=2), cut=True, fixed=True),
)

MUTANTS = (
    Mutant("centre", "(0.5 if ALIGNED else 0.0)", "(0.0 if ALIGNED else 0.0)", PLAIN),
    Mutant("corner", "(0.5 if ALIGNED else 0.0)", "(0.5 if ALIGNED else 0.5)", PS),
    Mutant("reach", "reach = 1.0 if ALIGNED else 0.5", "reach = 0.9 if ALIGNED else 0.5", DYADIC),
    Mutant("ps_reach", "reach = 1.0 if ALIGNED else 0.5", "reach = 1.0 if ALIGNED else 1.0", PS_DYADIC),
    Mutant("swapped_shift", "    dx = tl.load(at)\n", "    dx = tl.load(at + PH * PW)\n", PLAIN),
    Mutant("class_of_shift", "(box * CLASSES + kind) * (2 * PH * PW)", "(box * CLASSES) * (2 * PH * PW)", PS),
    Mutant("group", "group = by * GROUPS // PH * GROUPS + bx * GROUPS // PW", "group = by * GROUPS // PH * GROUPS", PS),
    Mutant("image", "tl.load(planes + box) * (GROUPS * GROUPS)", "0 * tl.load(planes + box)", PLAIN),
    Mutant("counted_all", "n = ny * nx if ALIGNED else count", "n = ny * nx", PS_DYADIC),
    Mutant("counted_read", "n = ny * nx if ALIGNED else count", "n = count if ALIGNED else count", DYADIC),
    Mutant("range", "tl.minimum(tl.maximum(a, b) + 3, samples)", "tl.minimum(tl.maximum(a, b) - 9, samples)", MANY),
    Mutant("slope_at_pixel", "(position >= 0) & (high > low)", "(fraction > 0) & (high > low)", ON_PIXELS),
    Mutant("ps_slope_at_pixel", "else fraction > 0", "else high > low", PS_DYADIC),
    Mutant("moment", "moment_y += y_slope * ty", "moment_y += y_slope * tx", PLAIN),
    Mutant("sign", "(v10 - v00)", "(v00 - v10)", PLAIN),
    Mutant("block", "within = block * BLOCK_C + tl.arange(0, BLOCK_C)", "within = tl.arange(0, BLOCK_C)", WIDE),
    Mutant("slice", "+ within - begin)", "+ within)", WIDE),
    Mutant("mask", "    factor = mean\n    if HAS_MASK:", "    factor = mean\n    if False:", PLAIN),
    Mutant("scatter", "u * fy * (1 - fx), unit", "u * fy * fx, unit", PLAIN),
)
