# SPDX-License-Identifier: Apache-2.0
"""The geometries that a deformable convolution has to get right, each with the reason for which it is here.

All numbers of a case are exact in every dtype under test: offsets are multiples of 1/32, the others have eight
significant bits. So one float64 oracle serves them all, and positions on a pixel are on it in every precision.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from oracles import deform_conv2d_loops as oracle

Pair = tuple[int, int]


class Arguments(NamedTuple):
    """The arguments of `deform_conv2d`, in its order."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    mask: Tensor | None


@dataclass(frozen=True)
class Case:
    """One geometry with its seeded, reproducible tensors."""

    name: str
    n: int
    channels: int
    size: Pair
    out_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    modulated: bool = True
    bias: bool = True
    offsets: Literal["random", "edges", "far", "zero"] = "random"
    layout: Literal["contiguous", "channels_last", "strided", "expanded"] = "contiguous"

    @property
    def output_size(self) -> Pair:
        """Return (Ho, Wo)."""
        rows, columns = (
            (self.size[d] + 2 * self.padding[d] - self.dilation[d] * (self.kernel[d] - 1) - 1) // self.stride[d] + 1
            for d in (0, 1)
        )
        return rows, columns

    @property
    def taps(self) -> int:
        """Return K, the number of taps of the kernel."""
        return self.kernel[0] * self.kernel[1]

    def arguments(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Arguments:
        """Return fresh arguments in `dtype` and in the memory layout of the case."""
        g = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        out = self.output_size
        image = _coarse(torch.randn(self.n, self.channels, *self.size, generator=g))
        offset = self._offsets(g)
        weight = torch.randn(self.out_channels, self.channels // self.groups, *self.kernel, generator=g)
        mask = _coarse(torch.rand(self.n, self.offset_groups * self.taps, *out, generator=g) + 0.05)
        bias = _coarse(torch.randn(self.out_channels, generator=g))
        tensors = (image, offset, _coarse(weight), bias if self.bias else None, mask if self.modulated else None)
        image_, offset_, weight_, bias_, mask_ = (
            None if t is None else _laid_out(t.to(device, dtype), self.layout) for t in tensors
        )
        assert image_ is not None and offset_ is not None and weight_ is not None
        return Arguments(image_, offset_, weight_, bias_, self.stride, self.padding, self.dilation, mask_)

    def upstream(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
        """Return the gradient that flows into the output, of shape (N, O, Ho, Wo)."""
        g = torch.Generator().manual_seed(zlib.crc32(self.name.encode()) + 1)
        grad = _coarse(torch.randn(self.n, self.out_channels, *self.output_size, generator=g))
        layout = "contiguous" if self.layout == "expanded" else self.layout
        return _laid_out(grad.to(device, dtype), layout)

    def _offsets(self, g: torch.Generator) -> Tensor:
        """Return offsets (N, 2*G*K, Ho, Wo), multiples of 1/32 wherever they are small."""
        shape = (self.n, 2 * self.offset_groups * self.taps, *self.output_size)
        offset = (torch.randn(shape, generator=g, dtype=torch.float64) * 2).clamp(-3.9, 3.9)
        offset = torch.round(offset * 32) / 32
        if self.offsets == "zero":
            return torch.zeros_like(offset)
        if self.offsets == "edges":
            return self._offsets_to_the_edges(offset, g)
        if self.offsets == "far":
            return _with_far_values(offset)
        return offset[:1, :, :1, :1].expand(shape) if self.layout == "expanded" else offset

    def _offsets_to_the_edges(self, offset: Tensor, g: torch.Generator) -> Tensor:
        """Return the offsets that put every sample on, just before or just after -1, 0, size-1 and size."""
        split = offset.view(self.n, self.offset_groups, *self.kernel, 2, *self.output_size)
        for axis, at in ((0, (self.kernel[0], 1, 1, 1)), (1, (self.kernel[1], 1, 1))):
            steps = torch.arange(self.output_size[axis], dtype=torch.float64)
            taps = torch.arange(self.kernel[axis], dtype=torch.float64)
            base = steps * self.stride[axis] - self.padding[axis]
            base = base.view(-1, 1) if axis == 0 else base
            base = base + (taps * self.dilation[axis]).view(at)
            edges = torch.tensor([-1.0, 0.0, self.size[axis] - 1.0, float(self.size[axis])], dtype=torch.float64)
            around = (edges.view(-1, 1) + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / 32).flatten()
            choice = torch.randint(len(around), split.shape[:4] + split.shape[5:], generator=g)
            split[:, :, :, :, axis] = around[choice] - base
        return offset


def _coarse(values: Tensor) -> Tensor:
    """Round to eight significant bits, which bfloat16, float16, float32 and float64 all hold."""
    return values.to(torch.bfloat16).clamp(-4, 4).double().where(values.abs() > 2**-6, torch.zeros(()).double())


def _with_far_values(offset: Tensor) -> Tensor:
    """Spread NaN, infinities, huge, out-of-int32 and subnormal values through `offset`, dy and dx separately."""
    far = [math.nan, math.inf, -math.inf, 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**63, 1e-40, -0.0, 65504.0]
    flat = offset.clone().flatten()
    for place in range(0, len(flat), 5):  # 5 and the number of values share no factor with the strides of a case
        flat[place] = far[place // 5 % len(far)]
    return flat.view_as(offset)


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values in the memory layout named."""
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        # Reversed axes in memory, and every second element of the innermost one, that hide poison in between.
        spread = torch.full((*reversed(tensor.shape), 2), math.nan, dtype=tensor.dtype, device=tensor.device)
        spread[..., 0] = tensor.permute(*range(tensor.dim() - 1, -1, -1))
        return spread[..., 0].permute(*range(tensor.dim() - 1, -1, -1))
    if layout == "expanded":
        return tensor
    return tensor.contiguous()


CASES = (
    # No two axes are equal, no weight is symmetric, and 33 images are one more than a usual chunk: what torchvision's
    # own test uses. Of 24 wrong versions it finds 24.
    Case("asymmetric", 33, 6, (5, 4), 2, (3, 2), (2, 1), (1, 0), (2, 1), groups=2, offset_groups=3),
    # The same without modulation and bias: DCNv1, and the branches that skip an absent tensor.
    Case("asymmetric_v1", 3, 6, (5, 4), 4, (3, 2), (2, 1), (1, 0), (2, 1), 2, 3, modulated=False, bias=False),
    # Strides, paddings and dilations in the opposite order of size, wider than high.
    Case("wide_steps", 2, 4, (6, 11), 3, (2, 3), (1, 3), (0, 2), (1, 3), offset_groups=2),
    # Line kernels: one axis has a single tap.
    Case("kernel_1x5", 2, 3, (4, 9), 5, (1, 5), padding=(0, 2)),
    Case("kernel_5x3", 2, 3, (9, 6), 4, (5, 3), padding=(2, 1)),
    Case("kernel_1x1", 2, 5, (4, 6), 3, (1, 1)),
    # groups = C: the path without a matrix product, with one and with two outputs a channel.
    Case("depthwise", 2, 12, (7, 6), 12, (3, 3), padding=(1, 1), groups=12),
    Case("depthwise_multiplier", 2, 5, (6, 7), 10, (3, 2), (2, 1), (1, 1), groups=5),
    Case("depthwise_offset_groups", 2, 10, (5, 6), 10, (3, 3), padding=(1, 1), groups=10, offset_groups=5),
    # Every channel has its own offsets: vectors over channels shrink to one lane.
    Case("offset_group_per_channel", 2, 6, (5, 7), 4, (3, 3), padding=(1, 1), offset_groups=6),
    # More weight groups than offset groups and the reverse: their borders fall inside one another.
    Case("groups_4_offset_groups_6", 2, 12, (5, 6), 8, (2, 3), padding=(1, 1), groups=4, offset_groups=6),
    Case("groups_6_offset_groups_4", 2, 24, (5, 6), 12, (3, 2), padding=(1, 1), groups=6, offset_groups=4),
    # Channel counts that no vector width divides: a full vector and a tail, for 4, 8 and 16 lanes.
    Case("channels_21_to_13", 2, 21, (6, 5), 13, (3, 3), padding=(1, 1)),
    Case("channels_40", 1, 40, (5, 7), 24, (3, 3), padding=(1, 1)),
    Case("channels_67", 1, 67, (4, 5), 9, (2, 2)),
    # Images of one row or one column, where a rule that divides by H - 1 breaks.
    Case("one_row", 2, 3, (1, 8), 4, (3, 3), padding=(1, 1)),
    Case("one_column", 2, 3, (8, 1), 4, (3, 3), padding=(1, 1)),
    Case("one_pixel", 3, 2, (1, 1), 3, (3, 2), padding=(1, 1)),
    # A single output pixel from a kernel as large as the image.
    Case("one_output", 2, 4, (5, 3), 6, (5, 3)),
    # More output positions than a cache tile holds: 51 x 44 of them, a ragged last tile for any power of two, and
    # tiles that begin in the middle of a row.
    Case("tiles", 1, 4, (50, 43), 5, (2, 2), padding=(1, 1)),
    # Several images, each a tile and a bit.
    Case("tiles_of_images", 3, 3, (21, 17), 2, (3, 2), (1, 1), (1, 1)),
    # An image so wide that half-precision coordinates are off by pixels.
    Case("wide_image", 1, 2, (2, 1500), 2, (1, 2), (1, 2)),
    # Samples exactly on -1, 0, H-1, H and 1/32 before and after each: the boundary rule and the slope at kinks.
    Case("edges", 4, 4, (5, 4), 3, (3, 2), (2, 1), (1, 0), (2, 1), offset_groups=2, offsets="edges"),
    Case("edges_depthwise", 3, 6, (4, 5), 6, (3, 3), padding=(1, 1), groups=6, offsets="edges"),
    Case("edges_one_row", 3, 3, (1, 6), 2, (2, 3), padding=(1, 1), offsets="edges"),
    # Every sample is on a pixel: what each layer meets on its first step, with border taps exactly on -1.
    Case("zero_offsets", 2, 5, (6, 7), 4, (3, 3), padding=(1, 1), offsets="zero"),
    # Offsets that are not numbers, or leave the image by more than an integer holds.
    Case("far", 3, 8, (6, 7), 5, (3, 2), (2, 1), (1, 1), offset_groups=2, offsets="far"),
    Case("far_depthwise", 3, 6, (6, 7), 6, (3, 3), padding=(1, 1), groups=6, offsets="far"),
    # Memory layouts: channels_last, reversed axes with gaps, and stride 0.
    Case("channels_last", 2, 16, (6, 9), 12, (3, 3), (1, 2), (1, 1), offset_groups=2, layout="channels_last"),
    Case("strided", 2, 9, (6, 5), 7, (3, 2), (1, 2), (1, 0), offset_groups=3, layout="strided"),
    Case("strided_depthwise", 2, 6, (6, 5), 6, (3, 2), padding=(1, 0), groups=6, layout="strided"),
    Case("expanded_offsets", 3, 4, (5, 6), 3, (3, 3), padding=(1, 1), layout="expanded"),
)  # fmt: skip

BY_NAME = {case.name: case for case in CASES}


class Expected(NamedTuple):
    """What the loops say about a case, as float64 tensors."""

    output: Tensor
    gradients: dict[str, Tensor]


@functools.cache
def expected(case: Case) -> Expected:
    """Return the oracle's output and gradients of `case` (computed once a process)."""
    arguments = case.arguments()
    arrays = [oracle.as_float64(a) if isinstance(a, Tensor) or a is None else a for a in arguments]
    output = oracle.forward(*arrays)
    gradients = oracle.backward(oracle.as_float64(case.upstream()), *arrays)
    found = {name: torch.from_numpy(g) for name, g in vars(gradients).items() if g is not None}
    return Expected(torch.from_numpy(output), found)
