# SPDX-License-Identifier: Apache-2.0
"""The geometries that RoI pooling has to get right, for both operators, each with the reason for which it is here.

Pixels, offsets and masks have eight significant bits, so that all dtypes hold them; boxes are given in float32, or
float64 beside float64 pixels. One float64 oracle so serves all dtypes, except where a sample would stand on one of the
steps of the definition by chance: boxes and `gamma` are odd enough that none does, or all numbers are dyadic.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from oracles import roi_pool_loops as oracle
from oracles.deform_conv2d_loops import as_float64
from pliant.ops import deform_ps_roi_pool, deform_roi_pool

Pair = tuple[int, int]
TENSORS = ("input", "boxes", "offset", "mask")


class RoIArguments(NamedTuple):
    """The tensors of a call."""

    input: Tensor
    boxes: Tensor
    offset: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True)
class RoICase:
    """One geometry with its seeded, reproducible tensors."""

    name: str
    operator: Literal["plain", "ps"]
    images: int
    channels: int  # of the output
    size: Pair
    boxes: int
    bins: Pair
    samples: int  # sampling_ratio, or samples_per_bin
    scale: float = 0.62
    gamma: float = 0.13
    classes: int = 1
    group: int = 1
    part: Pair | None = None
    offsets: Literal["random", "none", "far"] = "random"
    modulated: bool = True
    places: Literal["around", "dyadic", "tiny", "far"] = "around"
    layout: Literal["contiguous", "channels_last", "strided"] = "contiguous"

    @property
    def maps(self) -> Pair:
        """Return the size of offset and mask."""
        return self.part or self.bins

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Return the names of the tensors that have gradients."""
        has = {"offset": self.offsets != "none", "mask": self.modulated, "boxes": self.operator == "plain"}
        return tuple(name for name in TENSORS if has.get(name, True))

    @property
    def options(self) -> dict[str, Any]:
        """Return the attributes of a call."""
        both: dict[str, Any] = {"output_size": self.bins, "spatial_scale": self.scale, "gamma": self.gamma}
        if self.operator == "plain":
            return {**both, "sampling_ratio": self.samples}
        return {**both, "output_channels": self.channels, "group_size": self.group, "part_size": self.maps,
                "samples_per_bin": self.samples}  # fmt: skip

    @property
    def definition(self) -> oracle.Definition:
        """Return the oracle's definition of the operator."""
        return oracle.ALIGNED if self.operator == "plain" else oracle.OFFICIAL

    def call(self, arguments: RoIArguments, impl: Any) -> Tensor:
        """Call the public function."""
        function: Any = deform_roi_pool if self.operator == "plain" else deform_ps_roi_pool
        a = arguments
        result: Tensor = function(a.input, a.boxes, offset=a.offset, mask=a.mask, impl=impl, **self.options)
        return result

    def arguments(self, dtype: torch.dtype = torch.float64) -> RoIArguments:
        """Return fresh tensors, pixels, offsets and masks in `dtype`."""
        g = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        image = coarse(torch.randn(self.images, self.channels * self.group**2, *self.size, generator=g))
        boxes = self._boxes(g)
        offset = coarse(torch.randn(self.boxes, 2 * self.classes, *self.maps, generator=g) * 1.5)
        if self.places == "dyadic":
            offset = offset.round()
        if self.offsets == "far":
            offset = with_far_values(offset)
        mask = coarse(torch.rand(self.boxes, self.classes, *self.maps, generator=g) + 0.05)
        return RoIArguments(
            laid_out(image.to(dtype), self.layout),
            laid_out(boxes.to(torch.promote_types(dtype, torch.float32)), self.layout),
            None if self.offsets == "none" else laid_out(offset.to(dtype), self.layout),
            laid_out(mask.to(dtype), self.layout) if self.modulated else None,
        )

    def upstream(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the gradient that flows into the output, of shape (R, O, Ph, Pw)."""
        g = torch.Generator().manual_seed(zlib.crc32(self.name.encode()) + 1)
        grad = coarse(torch.randn(self.boxes, self.channels, *self.bins, generator=g)).to(dtype)
        return laid_out(grad, self.layout)

    def _boxes(self, g: torch.Generator) -> Tensor:
        """Return boxes (R, 5), multiples of 1/128, in every image in turn, from the inside to far outside."""
        picture = torch.tensor([self.size[1], self.size[0]], dtype=torch.float64) / self.scale  # (x, y)
        centre = torch.rand(self.boxes, 2, generator=g, dtype=torch.float64) * picture * 1.3 - 0.15 * picture
        side = torch.rand(self.boxes, 2, generator=g, dtype=torch.float64) * picture * 0.8
        if self.places == "tiny":
            side = side * 0.01
        corners = torch.cat([centre - side / 2, centre + side / 2], 1)
        corners = (corners * 128).round() / 128
        if self.places == "dyadic":
            corners = torch.randint(-4, 4 * max(self.size) + 4, (self.boxes, 2, 2), generator=g).double()
            corners = corners.sort(1)[0].flatten(1) / 2
        if self.places == "far":
            corners = with_far_values(corners)
        image = torch.arange(self.boxes - 1, -1, -1, dtype=torch.float64) % self.images
        return torch.cat([image.unsqueeze(1), corners], 1)


def coarse(values: Tensor) -> Tensor:
    """Round to eight significant bits, which bfloat16, float16, float32 and float64 all hold."""
    return values.to(torch.bfloat16).clamp(-4, 4).double().where(values.abs() > 2**-6, torch.zeros(()).double())


def with_far_values(values: Tensor) -> Tensor:
    """Spread NaN, infinities, huge and subnormal numbers through `values`."""
    far = [math.nan, math.inf, -math.inf, 1e30, -1e30, 2.0**31, -(2.0**31), 2.0**63, 1e-40, -0.0, 65504.0]
    flat = values.clone().flatten()
    for place in range(0, len(flat), 5):
        flat[place] = far[place // 5 % len(far)]
    return flat.view_as(values)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values in the memory layout named."""
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        # Reversed axes in memory, and every second element of the innermost one, that hide poison in between.
        spread = torch.full((*reversed(tensor.shape), 2), math.nan, dtype=tensor.dtype)
        spread[..., 0] = tensor.permute(*range(tensor.dim() - 1, -1, -1))
        return spread[..., 0].permute(*range(tensor.dim() - 1, -1, -1))
    return tensor.contiguous()


CASES = (
    # No two axes are equal: 3 images, 4 channels, 9x13 pixels, 7 boxes, 2x5 bins, 3 samples a side.
    RoICase("asymmetric", "plain", 3, 4, (9, 13), 7, (2, 5), 3),
    # The number of samples is each box's own, and another along each axis.
    RoICase("adaptive", "plain", 3, 4, (19, 13), 7, (2, 5), 0),
    # DCNv1 has no mask; RoIAlign neither mask nor offset.
    RoICase("plain_v1", "plain", 2, 5, (9, 7), 6, (3, 4), 2, modulated=False),
    RoICase("roi_align", "plain", 2, 5, (9, 7), 6, (3, 4), 0, offsets="none", modulated=False),
    RoICase("mask_alone", "plain", 2, 5, (9, 7), 6, (3, 4), 2, offsets="none"),
    # Positions on pixels, on -1 and on the far border, exactly: the steps and the kinks.
    RoICase("dyadic", "plain", 2, 3, (6, 5), 40, (4, 2), 2, scale=0.5, gamma=0.125, places="dyadic"),
    RoICase("dyadic_adaptive", "plain", 2, 3, (6, 5), 40, (2, 4), 0, scale=0.5, gamma=0.125, places="dyadic"),
    # Boxes far below a pixel; NaN, infinite and huge offsets, then boxes.
    RoICase("tiny", "plain", 2, 3, (6, 5), 9, (2, 3), 0, scale=0.5, places="tiny"),
    RoICase("far_offsets", "plain", 2, 3, (6, 8), 11, (2, 3), 2, offsets="far"),
    RoICase("far_boxes", "plain", 2, 3, (6, 8), 23, (2, 3), 2, places="far"),
    # One pixel, one row, one column.
    RoICase("one_pixel", "plain", 2, 3, (1, 1), 8, (2, 3), 2),
    RoICase("one_row", "plain", 2, 3, (1, 9), 8, (3, 2), 0),
    # More channels than a vector holds, and not a multiple of any.
    RoICase("channels_37", "plain", 2, 37, (6, 8), 5, (3, 2), 2),
    RoICase("channels_last", "plain", 2, 18, (6, 8), 5, (3, 2), 0, layout="channels_last"),
    RoICase("strided", "plain", 2, 6, (6, 8), 5, (3, 2), 2, layout="strided"),
    # Position-sensitive: 2 classes of 2 channels, 3x3 groups for 5x4 bins, 2x3 parts.
    RoICase("ps_asymmetric", "ps", 3, 4, (9, 13), 7, (5, 4), 3, classes=2, group=3, part=(2, 3)),
    RoICase("ps_v1", "ps", 2, 6, (9, 7), 5, (3, 3), 4, classes=3, group=3, modulated=False),
    RoICase("ps_no_trans", "ps", 2, 3, (9, 7), 6, (2, 3), 2, group=2, offsets="none", modulated=False),
    RoICase("ps_mask_alone", "ps", 2, 4, (9, 7), 6, (2, 3), 2, classes=2, offsets="none"),
    RoICase("ps_plain", "ps", 2, 5, (9, 7), 6, (3, 4), 2),
    RoICase("ps_more_groups_than_bins", "ps", 2, 2, (9, 7), 6, (2, 3), 2, group=4, part=(5, 4)),
    RoICase("ps_dyadic", "ps", 2, 3, (6, 5), 40, (4, 2), 2, scale=0.5, gamma=0.125, group=2, places="dyadic"),
    RoICase("ps_tiny", "ps", 2, 3, (6, 5), 9, (2, 3), 3, scale=0.02, places="tiny"),
    RoICase("ps_far_offsets", "ps", 2, 4, (6, 8), 11, (2, 3), 2, classes=2, offsets="far"),
    RoICase("ps_far_boxes", "ps", 2, 4, (6, 8), 23, (2, 3), 2, classes=2, places="far"),
    RoICase("ps_one_pixel", "ps", 2, 3, (1, 1), 8, (2, 3), 2),
    RoICase("ps_channels_37", "ps", 2, 37, (6, 8), 5, (3, 2), 2, group=2),
    RoICase("ps_channels_last", "ps", 2, 6, (6, 8), 5, (3, 2), 2, classes=2, group=3, layout="channels_last"),
    RoICase("ps_strided", "ps", 2, 6, (6, 8), 5, (3, 2), 2, classes=2, group=2, layout="strided"),
)  # fmt: skip
BY_NAME = {case.name: case for case in CASES}


@functools.cache
def expected(case: RoICase) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the oracle's output and gradients of a case."""
    arguments = [as_float64(t) for t in case.arguments()]
    output = oracle.forward(case.definition, *arguments, **case.options)
    gradients = oracle.backward(case.definition, as_float64(case.upstream()), *arguments, **case.options)
    return torch.from_numpy(output), {name: torch.from_numpy(gradients[name]) for name in case.differentiable}
