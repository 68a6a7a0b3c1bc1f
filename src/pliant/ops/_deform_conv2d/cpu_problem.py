# SPDX-License-Identifier: Apache-2.0
"""One call of the CPU path, cut into slices of channels, runs of images and tiles of output positions.

A kernel is called for as many images as its memory allows, so that a batch of small ones takes few calls. Images are
channels-last inside, so that the kernels run over channels. An image too large to be copied so at once is taken in
slices of channels, whose products add up. A single plane is channels-last as it lies. That bounds the memory beyond
the result to 64 MB forward and 128 MB backward, and two copies of the weight. On top of that come, in float32,
of images in a half type that are taken in slices: one plane of the image or of its gradient, where planes are larger
than that, and the gradients of offset and mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry, memory_format
from pliant.ops._native.library import TYPES, Packing, Tile, Triple, load
from pliant.ops._native.memory import Channels, Scratch, pointer, transpose

IMAGE_BYTES = 32 << 20  # of the channels-last copy of a slice of some images, and of their gradient
TILE_BYTES = 16 << 20  # of what one tile needs beside images
SHARE_BYTES = 8 << 20  # of the shares of the gradients of offset and mask, for one tile of the backward pass


@dataclass(frozen=True)
class ChannelSlice(Channels):
    """Channels of the image: whole weight groups, or a part of one."""

    run: int  # channels of one weight group inside the slice


class Run(NamedTuple):
    """Some images as the kernels read them, and the maps that say where."""

    n: slice  # of the batch
    image: Tensor  # (images, H, W, channels), whose channels lie side by side
    offset: Tensor  # (images, 2*G*K, Ho*Wo)
    mask: Tensor | None  # (images, G*K, Ho*Wo)


# The C struct, and of what is read: the image's type and address, the addresses of offset and mask.
TileArguments = tuple[Tile, int, int, int, int | None]


class CpuConvolution:
    """One call's tensors, cut into slices of channels, runs of images and tiles of output positions."""

    def __init__(
        self,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        geometry: ConvGeometry,
        mask: Tensor | None,
        *,
        backward: bool = False,
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
        self.copies = not self.channels_last or (backward and input.dtype != self.dtype)
        library = load()
        assert library is not None, "registered only where the library is loaded"
        self.native: Any = library.kernels
        self.scratch = Scratch()

    def copied_at_once(self) -> int:
        """Return how many planes of images, or of their gradient, may be copied at a time."""
        return max(1, IMAGE_BYTES // max(1, self.H * self.W * self.dtype.itemsize))

    def slices(self) -> list[ChannelSlice]:
        """Return the slices of channels: one, unless the image or its gradient must be copied and is large."""
        limit = self.C
        if self.copies:
            limit = self.copied_at_once()
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

    def runs(self, s: ChannelSlice, most: int) -> Iterator[Run]:
        """Yield images with at most `most` output positions together, or single ones, which `tiles` cuts."""
        images = max(1, most // (self.Ho * self.Wo))
        if self.copies:
            images = max(1, min(images, self.copied_at_once() // s.width))
        for begin in range(0, self.N, images):
            yield self.run(slice(begin, min(self.N, begin + images)), s, self.input.dtype)

    def run(self, n: slice, s: ChannelSlice, dtype: torch.dtype) -> Run:
        """Return images n. What has to be copied is copied as `dtype`, and is there until the next run."""
        mask = None if self.mask is None else self.mask[n].flatten(2)
        return Run(n, self._image(n, s, dtype), self.offset[n].flatten(2), mask)

    def tiles(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield [first, last) runs of at most `most` output positions of an image."""
        P = self.Ho * self.Wo
        for first in range(0, P, most):
            yield first, min(P, first + most)

    def shares(self, s: ChannelSlice) -> int:
        """Return into how many shares the kernel divides the channels of slice `s`."""
        return 1 if self.is_depthwise else int(self.native.deform_shares(Tile(channels=s.width, run=s.run)))

    def _image(self, n: slice, s: ChannelSlice, dtype: torch.dtype) -> Tensor:
        planes = self.input[n, s.begin : s.end]
        as_it_lies = s.width == 1 and planes[0].is_contiguous() and dtype == planes.dtype
        if self.channels_last or as_it_lies:
            return planes.permute(0, 2, 3, 1)
        image = self.scratch.take("image", (planes.shape[0], self.H, self.W, s.width), dtype)
        self.transpose(planes.flatten(2), image.flatten(1, 2))
        return image

    def transpose(self, source: Tensor, target: Tensor) -> None:
        """Set the (N, X, Y) `target` to the transpose of the (N, Y, X) `source`; lines are contiguous, or made so."""
        transpose(self.native, source, target, self.threads)

    def weight_rows(self, s: ChannelSlice, dtype: torch.dtype) -> Tensor:
        """Return the weights of slice `s` as (groups, O/groups, K*run), in the order of the columns."""
        w = self._weight(s).permute(0, 2, 3, 1)
        return w.reshape(-1, self.O // self.groups, self.K * s.run).to(dtype).contiguous()

    def _weight(self, s: ChannelSlice) -> Tensor:
        inside = slice(s.begin % self.per_group, s.begin % self.per_group + s.run)
        return self.weight[self.outputs(s), inside]

    def packed_weight(self, s: ChannelSlice, panel: int, purpose: str = "weight") -> Tensor:
        """Return the weights of slice `s` as (groups, panels, K*run, panel), with zeros for outputs past the last.

        They are there until others are packed for the same purpose.
        """
        weight = self._weight(s).to(self.dtype).flatten(2)
        O_per_group = self.O // self.groups
        groups, panels = weight.shape[0] // O_per_group, -(-O_per_group // panel)
        shape = (groups, panels, self.K * s.run, panel)
        packed = self.scratch.take(purpose, shape, self.dtype)
        size, stride = Packing(groups, O_per_group, s.run, self.K, panel), Triple(*weight.stride())
        self.native.pack_weight(size, weight.data_ptr(), stride, packed.data_ptr(), packed.itemsize, self.threads)
        return packed

    def depthwise_weight(self, s: ChannelSlice) -> Tensor:
        """Return (K, channels) weights of a depthwise convolution, in arithmetic type."""
        return self.weight[s.begin : s.end].flatten(1).T.to(self.dtype).contiguous()

    def outputs(self, s: ChannelSlice) -> slice:
        """Return the output channels that slice `s` contributes to."""
        per = self.O // self.groups
        return slice(s.begin // self.per_group * per, ((s.end - 1) // self.per_group + 1) * per)

    def tile(self, s: ChannelSlice, run: Run, first: int, last: int) -> TileArguments:
        """Return the arguments that describe a tile to every kernel."""
        o = run.offset[:, :, first:last]
        m = None if run.mask is None else run.mask[:, :, first:last]
        tile = Tile(
            images=run.image.shape[0],
            height=self.H,
            width=self.W,
            image_stride=run.image.stride(0),
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
            mask_stride=(0, 0, 0) if m is None else m.stride(),
            offset_type=TYPES[o.dtype],
            mask_type=TYPES[(o if m is None else m).dtype],
            threads=self.threads,
        )
        return tile, TYPES[run.image.dtype], run.image.data_ptr(), o.data_ptr(), pointer(m)


def positions(tensor: Tensor, n: slice, channels: slice) -> Tensor:
    """View `channels` of images n of a (N, X, Ho, Wo) tensor as (images, Ho*Wo, channels)."""
    return tensor[n, channels].flatten(2).mT


def check_memory(status: int) -> None:
    """Raise `MemoryError` where a kernel says that there was none."""
    if status:
        raise MemoryError("pliant.ops.deform_conv2d: no memory for the blocks that are worked on in cache")
