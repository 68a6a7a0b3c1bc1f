# SPDX-License-Identifier: Apache-2.0
"""One call of the CPU path, cut into images, slices of channels and tiles of output positions.

Images are channels-last inside, so that the kernels run over channels. An image too large to be copied so at once is
taken in slices of channels, whose products add up. A single plane is channels-last as it lies. That bounds the memory
beyond the result to 64 MB forward and 128 MB backward, and two copies of the weight. On top of that come, in float32,
of images in a half type that are taken in slices: one plane of the image or of its gradient, where planes are larger
than that, and the gradients of offset and mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._native.library import TYPES, Tile, load
from pliant.ops._native.memory import Scratch, transpose

IMAGE_BYTES = 32 << 20  # of the channels-last copy of one slice of an image, and of its gradient
TILE_BYTES = 16 << 20  # of what one tile needs beside images
SHARE_BYTES = 8 << 20  # of the shares of the gradients of offset and mask, for one tile of the backward pass


@dataclass(frozen=True)
class ChannelSlice:
    """Channels [begin, end) of the image: whole weight groups, or a part of one."""

    begin: int
    end: int
    run: int  # channels of one weight group inside the slice

    @property
    def width(self) -> int:
        """Return the number of channels."""
        return self.end - self.begin


class CpuConvolution:
    """One call's tensors, cut into images, slices of channels and tiles of output positions."""

    def __init__(
        self, input: Tensor, offset: Tensor, weight: Tensor, geometry: ConvGeometry, mask: Tensor | None
    ) -> None:
        self.input, self.offset, self.weight, self.geometry, self.mask = input, offset, weight, geometry, mask
        self.N, self.C, self.H, self.W = input.shape
        self.O, self.per_group, *self.kernel = weight.shape
        self.K = weight.shape[2] * weight.shape[3]
        self.Ho, self.Wo = offset.shape[2:]
        self.G = offset.shape[1] // (2 * self.K)
        self.groups = self.C // self.per_group
        self.dtype = torch.float64 if input.dtype == torch.float64 else torch.float32  # of all arithmetic
        self.is_depthwise = self.per_group == 1 and self.C == self.O and self.C > 1
        self.threads = torch.get_num_threads()
        self.channels_last = memory_format(input) == torch.channels_last
        library = load()
        assert library is not None, "registered only where the library is loaded"
        self.native: Any = library.kernels
        self.scratch = Scratch()

    def slices(self, *, copies: bool) -> list[ChannelSlice]:
        """Return the slices of channels: one, unless the image or its gradient must be copied and is large."""
        limit = self.C
        if copies:
            limit = max(1, IMAGE_BYTES // max(1, self.H * self.W * self.dtype.itemsize))
            limit -= limit % 16 if limit > 16 else 0
        if limit >= self.per_group:
            step = limit // self.per_group * self.per_group
            return [ChannelSlice(c, min(self.C, c + step), self.per_group) for c in range(0, self.C, step)]
        parts = []
        for group in range(0, self.C, self.per_group):
            for c in range(group, group + self.per_group, limit):
                end = min(group + self.per_group, c + limit)
                parts.append(ChannelSlice(c, end, end - c))
        return parts

    def is_cut(self, slices: list[ChannelSlice]) -> bool:
        """Return whether a weight group is spread over several slices, whose products add up."""
        return any(s.begin % self.per_group > 0 for s in slices)

    def tiles(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) runs of at most `most` output positions."""
        P = self.Ho * self.Wo
        for first in range(0, P, most):
            yield first, min(P, first + most)

    def shares(self, s: ChannelSlice) -> int:
        """Return into how many shares the kernel divides the channels of slice `s`."""
        return int(self.native.deform_shares(Tile(channels=s.width, run=s.run)))

    def image(self, n: int, s: ChannelSlice, dtype: torch.dtype | None = None) -> Tensor:
        """Return channels `s` of image n as (H, W, channels), in storage type or `dtype`; channels lie side by side."""
        if self.channels_last:
            return self.input[n, s.begin : s.end].permute(1, 2, 0)
        planes, dtype = self.input[n, s.begin : s.end], dtype or self.input.dtype
        if s.width == 1 and planes.is_contiguous() and dtype == planes.dtype:
            return planes.permute(1, 2, 0)
        image = self.scratch.take("image", (self.H, self.W, s.width), dtype)
        self.transpose(planes.flatten(1), image.flatten(0, 1))
        return image

    def transpose(self, source: Tensor, target: Tensor) -> None:
        """Set the (X, Y) `target` to the transpose of the (Y, X) `source`; lines of both are contiguous, or made so."""
        transpose(self.native, source, target, self.threads)

    def weight_rows(self, s: ChannelSlice, dtype: torch.dtype) -> Tensor:
        """Return the weights of slice `s` as (groups, O/groups, K*run), in the order of the columns."""
        O_per_group = self.O // self.groups
        first, last = s.begin // self.per_group, (s.end - 1) // self.per_group + 1
        inside = slice(s.begin % self.per_group, s.begin % self.per_group + s.run)
        w = self.weight[first * O_per_group : last * O_per_group, inside].permute(0, 2, 3, 1)
        return w.reshape(last - first, O_per_group, self.K * s.run).to(dtype).contiguous()

    def packed_weight(self, s: ChannelSlice, panel: int) -> Tensor:
        """Return the weights of slice `s` as (groups, panels, K*run, panel), with zeros for outputs past the last."""
        groups, per = s.width // s.run, self.O // self.groups
        inside = slice(s.begin % self.per_group, s.begin % self.per_group + s.run)
        w = self.weight[self.outputs(s), inside].reshape(groups, per, s.run, self.K).to(self.dtype)
        if per % panel:
            w = torch.cat([w, w.new_zeros(groups, -per % panel, s.run, self.K)], 1)
        w = w.view(groups, -1, panel, s.run, self.K).permute(0, 1, 4, 3, 2)  # (groups, panels, K, run, panel)
        return w.reshape(groups, -1, self.K * s.run, panel).contiguous()

    def depthwise_weight(self, s: ChannelSlice) -> Tensor:
        """Return (K, channels) weights of a depthwise convolution, in arithmetic type."""
        return self.weight[s.begin : s.end].flatten(1).T.to(self.dtype).contiguous()

    def outputs(self, s: ChannelSlice) -> slice:
        """Return the output channels that slice `s` contributes to."""
        per = self.O // self.groups
        return slice(s.begin // self.per_group * per, ((s.end - 1) // self.per_group + 1) * per)

    def maps(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Return offset and mask of image n as (channels, Ho*Wo)."""
        return self.offset[n].flatten(1), None if self.mask is None else self.mask[n].flatten(1)

    def tile(
        self, s: ChannelSlice, first: int, last: int, offset: Tensor, mask: Tensor | None
    ) -> tuple[Tile, Tensor, Tensor | None]:
        """Return the C struct of a tile, and offset and mask of its positions."""
        o = offset[:, first:last]
        m = None if mask is None else mask[:, first:last]
        tile = Tile(
            height=self.H,
            width=self.W,
            pixel_stride=self.C if self.channels_last else s.width,
            channels=s.width,
            run=s.run,
            channel_begin=s.begin,
            offset_groups=self.G,
            offset_group_channels=self.C // self.G,
            out_width=self.Wo,
            first=first,
            count=last - first,
            kernel=tuple(self.kernel),
            stride=self.geometry.stride,
            padding=self.geometry.padding,
            dilation=self.geometry.dilation,
            offset_stride=o.stride(),
            mask_stride=(0, 0) if m is None else m.stride(),
            offset_type=TYPES[o.dtype],
            mask_type=TYPES[(o if m is None else m).dtype],
            threads=self.threads,
        )
        return tile, o, m


def positions(tensor: Tensor, n: int, channels: slice) -> Tensor:
    """View `channels` of image n of a (N, X, Ho, Wo) tensor as (Ho*Wo, channels)."""
    return tensor[n, channels].flatten(1).T
