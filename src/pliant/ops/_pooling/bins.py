# SPDX-License-Identifier: Apache-2.0
"""The bins that a pooling of boxes averages over: what both operators hand to the kernels of any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pliant._geometry import Pair

# Where samples stand, and which count; the numbers are those of abi.h.
POOL_ALIGNED = 0  # RoIAlign's rule
POOL_POSITION_SENSITIVE = 1  # the official position-sensitive operator's
VALUE, SLOPE_Y, SLOPE_X, MOMENT_Y, MOMENT_X = range(5)  # the sums that gradients are made of, see abi.h


@dataclass(frozen=True)
class Bins:
    """The bins of R boxes for K classes of output channels, in pixels of the image and in the type of arithmetic."""

    rois: Tensor  # (R, 5), of which the number of the image is used
    sides: Tensor  # (R, 2, 3): start, size and samples of a bin, vertical and horizontal
    shift: Tensor | None  # (R, K, 2, Ph, Pw): horizontal and vertical
    mask: Tensor | None  # (R, K, Ph, Pw)
    size: Pair  # (Ph, Pw)
    rule: int  # POOL_ALIGNED or POOL_POSITION_SENSITIVE
    outputs: int  # channels
    groups: int = 1  # along each axis
    classes: int = 1


class Kernels(NamedTuple):
    """The two functions of a device that compute both operators."""

    # (input, bins) to the mean of each bin, (R, outputs, Ph, Pw), contiguous and of input's type
    pool: Callable[[Tensor, Bins], Tensor]
    # (grad, input, bins, *, needs_input, needs_products) to the gradient of input, and the sums (R, K, Ph, Pw, 5) that
    # the other gradients consist of, where needed
    pool_backward: Callable[..., tuple[Tensor | None, Tensor | None]]


def gradient_of_shifts(sums: Tensor, bins: Bins, gamma: float) -> Tensor:
    """Return the gradient of offsets in units of the boxes, horizontal before vertical: (R, 2*K, Ph, Pw)."""
    height, width = bins.sides[:, :, 1, None, None, None].unbind(1)
    # In this order: the width times gamma may be infinite where sums are 0, times sums where gamma is.
    shifts = [gamma * sums[..., SLOPE_X] * width, gamma * sums[..., SLOPE_Y] * height]
    return torch.stack(shifts, 2).flatten(1, 2)
