# SPDX-License-Identifier: Apache-2.0
"""One call of the GPU path: its sizes, its image channels-last, and the arguments that all kernels share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pliant._geometry import ConvGeometry
from pliant.ops import _triton


class GpuConvolution:
    """The tensors of one call and what follows from their shapes.

    Letters: N images, C channels, O output channels, K taps, G offset groups, M = N*Ho*Wo positions.
    """

    def __init__(
        self, input: Tensor, offset: Tensor, weight: Tensor, geometry: ConvGeometry, mask: Tensor | None
    ) -> None:
        self.input, self.offset, self.weight, self.mask, self.geometry = input, offset, weight, mask, geometry
        self.N, self.C, self.H, self.W = input.shape
        self.O, self.per_group, self.kh, self.kw = weight.shape
        self.K = self.kh * self.kw
        self.Ho, self.Wo = offset.shape[2:]
        self.G = offset.shape[1] // (2 * self.K)
        self.groups = self.C // self.per_group
        self.M = self.N * self.Ho * self.Wo
        self.device, self.dtype = input.device, input.dtype
        self.sum_dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
        self.is_depthwise = self.per_group == 1 and self.C == self.O and self.C > 1
        # Channels in a row that lie in one weight group and in one offset group.
        self.segment = math.gcd(self.per_group, self.C // self.G)
        # Dense (N, H, W, C) memory; no copy where the input is channels_last.
        self.image = input.contiguous(memory_format=torch.channels_last)
        self.wide = _triton.needs_int64((self.image, offset, mask), self.M * self.O)

    def sizes(self) -> tuple[int, ...]:
        """Return N, H, W, Ho, Wo as the kernels take them."""
        return self.N, self.H, self.W, self.Ho, self.Wo

    def map_strides(self) -> tuple[int, ...]:
        """Return the strides of offset and mask."""
        return (*self.offset.stride(), *((0, 0, 0, 0) if self.mask is None else self.mask.stride()))

    def steps(self) -> tuple[int, ...]:
        """Return stride, padding and dilation."""
        return (*self.geometry.stride, *self.geometry.padding, *self.geometry.dilation)

    def constants(self) -> dict[str, Any]:
        """Return what all kernels are compiled for."""
        return {
            "KW": self.kw,
            "K": self.K,
            "HAS_MASK": self.mask is not None,
            "WIDE": self.wide,
            "CT": _triton.compute_type(self.dtype),
        }
