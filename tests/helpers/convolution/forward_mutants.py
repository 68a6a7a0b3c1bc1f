# SPDX-License-Identifier: Apache-2.0
"""Deformable convolutions whose output is wrong, one bug each."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.convolution.cases import Arguments, Pair
from helpers.convolution.plain import PlainDeformConv2d, Samples

CHUNK = 32  # images that the usual implementations take at once
TILE = 256  # output rows that a cache-sized tile may hold


# -- where the taps look ---------------------------------------------------------------------------------------------


class SwappedDyDx(PlainDeformConv2d):
    def split_offsets(self, a: Arguments) -> tuple[Tensor, Tensor]:
        dy, dx = super().split_offsets(a)
        return dx, dy

    def join_offsets(self, d_y: Tensor, d_x: Tensor) -> Tensor:
        return super().join_offsets(d_x, d_y)


class PlanarOffsets(PlainDeformConv2d):
    """All dy of a group, then all dx."""

    def split_offsets(self, a: Arguments) -> tuple[Tensor, Tensor]:
        n, _, rows, columns = a.offset.shape
        split = a.offset.reshape(n, self.offset_groups(a), 2, -1, rows, columns)
        return split[:, :, 0], split[:, :, 1]

    def join_offsets(self, d_y: Tensor, d_x: Tensor) -> Tensor:
        return torch.stack((d_y, d_x), 2).flatten(1, 3)


class OffsetGroupsInnermost(PlainDeformConv2d):
    def split_offsets(self, a: Arguments) -> tuple[Tensor, Tensor]:
        n, _, rows, columns = a.offset.shape
        split = a.offset.reshape(n, -1, 2, self.offset_groups(a), rows, columns).transpose(1, 3)
        return split[:, :, 0], split[:, :, 1]

    def join_offsets(self, d_y: Tensor, d_x: Tensor) -> Tensor:
        return torch.stack((d_y, d_x), 2).transpose(1, 3).flatten(1, 3)


class NegatedOffsets(PlainDeformConv2d):
    def add(self, base: Tensor, offset: Tensor) -> Tensor:
        return super().add(base, -offset)


class ColumnMajorTaps(PlainDeformConv2d):
    """DCNv3's and DCNv4's order of taps."""

    def kernel_taps(self, a: Arguments) -> tuple[Tensor, Tensor]:
        rows, columns = a.weight.shape[2:]
        k = torch.arange(rows * columns)
        return k % rows, k // rows


class FlippedKernel(PlainDeformConv2d):
    """A convolution in the mathematicians' sense."""

    def kernel_taps(self, a: Arguments) -> tuple[Tensor, Tensor]:
        rows, columns = super().kernel_taps(a)
        return rows.flip(0), columns.flip(0)


class SwappedStride(PlainDeformConv2d):
    def stride(self, a: Arguments) -> Pair:
        return a.stride[1], a.stride[0]


class SwappedPadding(PlainDeformConv2d):
    def padding(self, a: Arguments) -> Pair:
        return a.padding[1], a.padding[0]


class SwappedDilation(PlainDeformConv2d):
    def dilation(self, a: Arguments) -> Pair:
        return a.dilation[1], a.dilation[0]


class IgnoredDilation(PlainDeformConv2d):
    def dilation(self, a: Arguments) -> Pair:
        return 1, 1


class HalfPixelShift(PlainDeformConv2d):
    def add(self, base: Tensor, offset: Tensor) -> Tensor:
        return super().add(base, offset) - 0.5


class CoordinatesInHalfPrecision(PlainDeformConv2d):
    """torchvision's, mmcv's and detectron2's CUDA kernels on half tensors."""

    def add(self, base: Tensor, offset: Tensor) -> Tensor:
        return (base.half() + offset.half()).to(super().add(base, offset).dtype)


# -- groups ----------------------------------------------------------------------------------------------------------


class IgnoredOffsetGroups(PlainDeformConv2d):
    """Every channel follows the first group's offsets."""

    def split_offsets(self, a: Arguments) -> tuple[Tensor, Tensor]:
        dy, dx = super().split_offsets(a)
        return dy[:, :1].expand_as(dy), dx[:, :1].expand_as(dx)


class InterleavedOffsetGroups(PlainDeformConv2d):
    """Channel c belongs to offset group c % G."""

    def channel_order(self, a: Arguments) -> Tensor:
        return torch.arange(a.input.shape[1]).unflatten(0, (-1, self.offset_groups(a))).T.flatten()


class InterleavedWeightGroups(PlainDeformConv2d):
    """Output channel o belongs to weight group o % groups."""

    def visible(self, a: Arguments) -> Tensor:
        out, channels, groups = a.weight.shape[0], a.input.shape[1], self.weight_groups(a)
        same = torch.arange(out).unsqueeze(1) % groups == torch.arange(channels) * groups // channels
        return same.to(a.weight.dtype)


class IgnoredWeightGroups(PlainDeformConv2d):
    """Every output channel sees the first weight group's input channels."""

    def visible(self, a: Arguments) -> Tensor:
        return super().visible(a)[:1].expand(a.weight.shape[0], -1)


class IgnoredMaskGroups(PlainDeformConv2d):
    def modulation(self, a: Arguments) -> Tensor:
        m = super().modulation(a)
        return m[:, :1].expand_as(m)


# -- the border, and what is not a number ------------------------------------------------------------------------------


class ClampedBorder(PlainDeformConv2d):
    """Pixels outside repeat the edge."""

    def live(self, y: Tensor, x: Tensor, a: Arguments) -> Tensor:
        return y.isfinite() & x.isfinite()

    def quiet(self, p: Tensor, live: Tensor) -> Tensor:
        return torch.where(live, p, 0).clamp(-1e6, 1e6)

    def corner_index(self, y: Tensor, x: Tensor, corner: Pair, a: Arguments) -> tuple[Tensor, Tensor]:
        index, inside = super().corner_index(y, x, corner, a)
        return index, torch.ones_like(inside)


class BoundaryOfV1(PlainDeformConv2d):
    """The rule of the first official operator: zero from 0 downwards, the last pixel repeated from H-1 to H."""

    def live(self, y: Tensor, x: Tensor, a: Arguments) -> Tensor:
        return super().live(y, x, a) & (y >= 0) & (x >= 0)

    def corner_index(self, y: Tensor, x: Tensor, corner: Pair, a: Arguments) -> tuple[Tensor, Tensor]:
        index, inside = super().corner_index(y, x, corner, a)
        return index, torch.ones_like(inside)


class BorderPixelsUnseen(PlainDeformConv2d):
    """A sample counts only where all its four corners exist."""

    def live(self, y: Tensor, x: Tensor, a: Arguments) -> Tensor:
        rows, columns = a.input.shape[2:]
        return (y >= 0) & (x >= 0) & (y <= rows - 1) & (x <= columns - 1)


class TruncatedTowardsZero(PlainDeformConv2d):
    """`(int)y` instead of `floor(y)`: wrong between -1 and 0 only."""

    def floor(self, p: Tensor) -> Tensor:
        return p.trunc()


class NanPropagates(PlainDeformConv2d):
    def modulation(self, a: Arguments) -> Tensor:
        y, x = self.positions(a)
        return super().modulation(a) + 0 * (y + x).nan_to_num(torch.nan, 0, 0).to(a.input.dtype)


class NanSpoilsItsNeighbour(PlainDeformConv2d):
    """A NaN in one tap takes the whole offset group of that output pixel with it."""

    def live(self, y: Tensor, x: Tensor, a: Arguments) -> Tensor:
        return super().live(y, x, a) & ~(y + x).isnan().any(2, keepdim=True)


# -- sampling and modulation -------------------------------------------------------------------------------------------


class NearestPixel(PlainDeformConv2d):
    def fractions(self, s: Samples) -> tuple[Tensor, Tensor]:
        l_y, l_x = super().fractions(s)
        return l_y.round(), l_x.round()


class SwappedFractions(PlainDeformConv2d):
    def fractions(self, s: Samples) -> tuple[Tensor, Tensor]:
        l_y, l_x = super().fractions(s)
        return l_x, l_y


class IgnoredMask(PlainDeformConv2d):
    def modulation(self, a: Arguments) -> Tensor:
        return torch.ones_like(super().modulation(a))


class SquaredMask(PlainDeformConv2d):
    def modulation(self, a: Arguments) -> Tensor:
        return super().modulation(a) ** 2


class TransposedMaskTaps(PlainDeformConv2d):
    def modulation(self, a: Arguments) -> Tensor:
        return super().modulation(a).unflatten(2, tuple(a.weight.shape[2:])).transpose(2, 3).flatten(2, 3)


# -- what a tiled, vectorised kernel leaves out ------------------------------------------------------------------------


class ImagesAfterTheChunkDropped(PlainDeformConv2d):
    def forward(self, a: Arguments) -> Tensor:
        y = super().forward(a)
        y[CHUNK:] = 0
        return y


class LastTileDropped(PlainDeformConv2d):
    """Output rows beyond the last full tile are never computed."""

    def forward(self, a: Arguments) -> Tensor:
        rows = super().forward(a).movedim(1, 3).clone()  # (N, Ho, Wo, O)
        flat = rows.view(-1, rows.shape[3])
        if len(flat) > TILE:
            flat[len(flat) // TILE * TILE :] = 0
        return rows.movedim(3, 1)


class ChannelTailDropped(PlainDeformConv2d):
    """Input channels beyond the last full vector of eight are not sampled."""

    def columns(self, s: Samples, a: Arguments) -> Tensor:
        columns = super().columns(s, a)
        if columns.shape[1] > 8:
            columns[:, columns.shape[1] // 8 * 8 :] = 0
        return columns


class BiasDropped(PlainDeformConv2d):
    def bias(self, a: Arguments) -> Tensor:
        return torch.zeros_like(super().bias(a))


class BiasPerWeightGroup(PlainDeformConv2d):
    """Each weight group reads the bias from its start."""

    def bias(self, a: Arguments) -> Tensor:
        bias = super().bias(a)
        return bias.view(self.weight_groups(a), -1)[:1].expand(self.weight_groups(a), -1).flatten()
