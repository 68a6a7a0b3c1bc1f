# SPDX-License-Identifier: Apache-2.0
"""One call of the CPU path, cut into images, slices of channels and tiles of output positions.

Images are channels-last inside, so that the kernels run over channels. An image too large to be copied so at once is
taken in slices of channels, whose products add up. A single plane is channels-last as it lies. That bounds the memory
beyond the result to 64 MB forward and 128 MB backward, and two copies of the weight. On top of that come, of one image
in a half type: its output, where contiguous slices add up, and one plane of its gradient, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._native.library import Tile, load
from pliant.ops._native.memory import Scratch, transpose

IMAGE_BYTES = 32 << 20  # of the channels-last copy of one slice of an image, and of its gradient
TILE_BYTES = 16 << 20  # of the columns of one tile in the backward pass
MAX_POSITIONS = 2048  # of such a tile


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
        self.image_dtype = input.dtype
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

    def adds_slices(self, slices: list[ChannelSlice]) -> bool:
        """Return whether the products of several slices add up to one output."""
        return any(s.begin % self.per_group > 0 for s in slices)

    def tiles(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) runs of at most `most` output positions."""
        P = self.Ho * self.Wo
        for first in range(0, P, most):
            yield first, min(P, first + most)

    def backward_positions(self, s: ChannelSlice, shares: int) -> int:
        """Return how many positions' columns, and shares of the gradients of offset and mask, fit `TILE_BYTES`."""
        row = self.K * (s.width + 3 * self.G * shares) * self.dtype.itemsize
        fitting = max(1, min(MAX_POSITIONS, TILE_BYTES // row))
        return fitting - fitting % 64 if fitting > 64 else fitting

    def image(self, n: int, s: ChannelSlice) -> Tensor:
        """Return channels `s` of image n as (H, W, channels), in `image_dtype`; channels lie side by side."""
        if self.lies_as_read(s) and self.image_dtype == self.input.dtype:
            return self.input[n, s.begin : s.end].permute(1, 2, 0)
        image = self.scratch.take("image", (self.H, self.W, s.width), self.image_dtype)
        self.transpose(self.input[n, s.begin : s.end].flatten(1), image.flatten(0, 1))
        return image

    def lies_as_read(self, s: ChannelSlice) -> bool:
        """Return whether the channels of slice `s` lie side by side: also where there is but one."""
        return self.channels_last or (s.width == 1 and self.input.is_contiguous())

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
        self, s: ChannelSlice, image: Tensor, first: int, last: int, offset: Tensor, mask: Tensor | None
    ) -> tuple[Tile, Tensor, Tensor | None]:
        """Return the C struct of a tile, and offset and mask of its positions in arithmetic type."""
        o = offset[:, first:last].to(self.dtype)
        m = None if mask is None else mask[:, first:last].to(self.dtype)
        tile = Tile(
            height=self.H,
            width=self.W,
            pixel_stride=image.stride(1) if self.W > 1 or not self.channels_last else self.C,
            channels=s.width,
            run=s.run,
            channel_begin=s.begin,
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
            threads=self.threads,
        )
        return tile, o, m


def positions(tensor: Tensor, n: int, channels: slice) -> Tensor:
    """View `channels` of image n of a (N, X, Ho, Wo) tensor as (Ho*Wo, channels)."""
    return tensor[n, channels].flatten(1).T
