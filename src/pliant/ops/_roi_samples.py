# SPDX-License-Identifier: Apache-2.0
"""What the references of the RoI operators share: reading a bin's grid of samples bilinearly, and the way back.

The samples of a bin form a grid, so a position belongs to a row or to a column of it. Letters: L_h x L_w samples in a
bin, C channels read together; `...` stands for boxes and bins. A plane is one (H, W) map of C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PIECE = 1 << 22  # samples times channels that a reference without a graph holds at once


class Axis(NamedTuple):
    """Sampling positions along one axis, (..., L): the two pixels around each, and how far it is between them."""

    low: Tensor
    high: Tensor
    fraction: Tensor
    inside: Tensor  # the position is read at all
    free: Tensor  # and is not held at the border, where moving it changes nothing

    def ends(self) -> tuple[tuple[Tensor, Tensor, int], tuple[Tensor, Tensor, int]]:
        """Return pixel, weight and the slope of the weight, for the pixel before a position and for the one after."""
        return (self.low, 1 - self.fraction, -1), (self.high, self.fraction, 1)


def locate(position: Tensor, inside: Tensor, size: int, *, right_hand: bool) -> Axis:
    """Hold positions that are `inside` in [0, size - 1] and find the pixels around them.

    On a pixel, the pixel after it is the next one (`right_hand`, which gives the right-hand derivative there), or the
    pixel itself (which gives the derivative 0).
    """
    free = inside & (position >= 0) & (position <= size - 1)
    border = torch.where(inside, position.detach(), position.new_zeros(())).clamp(0, size - 1)
    held = torch.where(free, position, border)
    low = held.detach().floor()
    high = (low + 1).clamp(max=size - 1) if right_hand else held.detach().ceil()
    return Axis(low.long(), high.long(), held - low, inside, free)


class Grid(NamedTuple):
    """The samples of all bins: where each bin's plane begins in the table of pixels, and its rows and columns."""

    pixels: Tensor  # (planes*H*W, C): one row for each pixel
    plane: Tensor  # (...)
    width: int
    height: int
    rows: Axis  # (..., L_h)
    columns: Axis  # (..., L_w)

    def inside(self) -> Tensor:
        """Return whether each sample is read, (..., L_h, L_w)."""
        return self.rows.inside.unsqueeze(-1) & self.columns.inside.unsqueeze(-2)

    def corners(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield for each of the four corners: its row in `pixels`, its weight, and the weight's slopes in y and x."""
        origin = (self.plane * (self.height * self.width))[..., None, None]
        for row, weight_y, sign_y in self.rows.ends():
            for column, weight_x, sign_x in self.columns.ends():
                index = origin + row.unsqueeze(-1) * self.width + column.unsqueeze(-2)
                w_y, w_x = weight_y.unsqueeze(-1), weight_x.unsqueeze(-2)
                yield index, w_y * w_x, sign_y * w_x, w_y * sign_x

    def read(self, index: Tensor) -> Tensor:
        """Return the pixels at `index` (..., L_h, L_w) as (..., L_h, L_w, C), zero where a sample is not read."""
        values = self.pixels.index_select(0, index.flatten()).view(*index.shape, self.pixels.shape[1])
        values = values.to(self.rows.fraction.dtype)
        return torch.where(self.inside().unsqueeze(-1), values, values.new_zeros(()))

    def total(self) -> Tensor:
        """Return the sum of each bin's samples, (..., C)."""
        parts = [(weight.unsqueeze(-1) * self.read(index)).sum((-3, -2)) for index, weight, _, _ in self.corners()]
        return torch.stack(parts).sum(0)

    def pull_back(self, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of `pixels` and of the positions in y (..., L_h) and x (..., L_w).

        `pull` (..., C) is the gradient of each bin's total.
        """
        grad_pixels = torch.zeros(self.pixels.shape, dtype=pull.dtype, device=pull.device)
        spread = torch.where(self.inside().unsqueeze(-1), pull[..., None, None, :], pull.new_zeros(()))
        grad_y, grad_x = torch.zeros_like(self.rows.fraction), torch.zeros_like(self.columns.fraction)
        for index, weight, slope_y, slope_x in self.corners():
            grad_pixels.index_add_(0, index.flatten(), (weight.unsqueeze(-1) * spread).flatten(0, -2))
            product = (self.read(index) * spread).sum(-1)  # (..., L_h, L_w)
            grad_y, grad_x = grad_y + (slope_y * product).sum(-1), grad_x + (slope_x * product).sum(-2)
        zero = grad_y.new_zeros(())
        return grad_pixels, torch.where(self.rows.free, grad_y, zero), torch.where(self.columns.free, grad_x, zero)


def pieces(boxes: int, channels: int, samples: int, *, split_channels: bool) -> Iterator[tuple[slice, slice]]:
    """Yield slices of boxes and channels, with `samples` for each pair of them, that keep to `PIECE`."""
    width = max(1, min(channels, PIECE // max(samples, 1))) if split_channels else max(channels, 1)
    step = max(1, PIECE // max(samples * width, 1))
    for first in range(0, boxes, step):
        for channel in range(0, max(channels, 1), width):
            yield slice(first, first + step), slice(channel, channel + width)


def part(tensor: Tensor | None, boxes: slice) -> Tensor | None:
    """Return some boxes' part of `tensor`, where there is one."""
    return None if tensor is None else tensor[boxes]
