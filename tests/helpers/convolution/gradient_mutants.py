# SPDX-License-Identifier: Apache-2.0
"""Deformable convolutions whose output is right and whose gradients are wrong, one bug each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from helpers.convolution.cases import Arguments
from helpers.convolution.plain import CORNERS, PlainDeformConv2d, Samples


class OffsetGradientNegated(PlainDeformConv2d):
    def join_offsets(self, d_y: Tensor, d_x: Tensor) -> Tensor:
        return super().join_offsets(-d_y, -d_x)


class OffsetGradientAxesSwapped(PlainDeformConv2d):
    def join_offsets(self, d_y: Tensor, d_x: Tensor) -> Tensor:
        return super().join_offsets(d_x, d_y)


class OffsetGradientWithoutMask(PlainDeformConv2d):
    def offset_modulation(self, s: Samples) -> Tensor:
        return torch.ones_like(s.modulation)


class OffsetGradientOfFirstChannel(PlainDeformConv2d):
    def grad_position(self, s: Samples, pull: Tensor) -> tuple[Tensor, Tensor]:
        return super().grad_position(replace(s, corners=[c[:, :, :1] for c in s.corners]), pull[:, :, :1])


class LeftHandSlope(PlainDeformConv2d):
    """The derivative from the left at integer positions: floor is taken just before the point."""

    def grad_position(self, s: Samples, pull: Tensor) -> tuple[Tensor, Tensor]:
        return super().grad_position(self._just_before(s), pull)

    def grad_input(self, s: Samples, pull: Tensor, a: Arguments) -> Tensor:
        self._arguments = a
        return super().grad_input(s, pull, a)

    def backward(self, grad: Tensor, a: Arguments) -> dict[str, Tensor | None]:
        self._arguments = a
        return super().backward(grad, a)

    def _just_before(self, s: Samples) -> Samples:
        a, step = self._arguments, 2.0**-30
        moved = PlainDeformConv2d()
        y, x = (torch.where(p == p.floor(), p - step, p) for p in moved.positions(a))
        live = moved.live(y, x, a)
        y, x = moved.quiet(y, live), moved.quiet(x, live)
        corners = []
        for corner in CORNERS:
            index, inside = moved.corner_index(y, x, corner, a)
            flat = index.flatten(2).unsqueeze(2).expand(-1, -1, s.corners[0].shape[2], -1)
            picked = moved.grouped_image(a).gather(3, flat).view_as(s.corners[0])
            corners.append(picked * (inside & live).unsqueeze(2))
        return replace(s, y=y, x=x, live=live, corners=corners)


class NoSlopeAtMinusOne(PlainDeformConv2d):
    """mmcv's rule: a point exactly on -1 is outside, so its offset gets gradient 0."""

    def grad_position(self, s: Samples, pull: Tensor) -> tuple[Tensor, Tensor]:
        visible = (s.y > -1) & (s.x > -1)
        d_y, d_x = super().grad_position(s, pull)
        return d_y * visible, d_x * visible


class SlopeOfClampedBorder(PlainDeformConv2d):
    """A missing corner takes its neighbour's value in the slope, so the border has none."""

    def slopes(self, s: Samples) -> tuple[Tensor, Tensor]:
        v1, v2, v3, v4 = s.corners
        filled = [torch.where(v == 0, other, v) for v, other in ((v1, v3), (v2, v4), (v3, v1), (v4, v2))]
        return super().slopes(replace(s, corners=filled))


class MaskGradientWithoutValue(PlainDeformConv2d):
    def grad_mask(self, s: Samples, pull: Tensor) -> Tensor:
        return pull.sum(2) * s.live


class MaskGradientTimesMask(PlainDeformConv2d):
    def grad_mask(self, s: Samples, pull: Tensor) -> Tensor:
        return super().grad_mask(s, pull) * s.modulation


class InputGradientDropsACorner(PlainDeformConv2d):
    def corner_weights(self, s: Samples) -> list[Tensor]:
        weights = super().corner_weights(s)
        return [*weights[:3], weights[3] * self._keep]

    _keep = 1.0

    def grad_input(self, s: Samples, pull: Tensor, a: Arguments) -> Tensor:
        self._keep = 0.0
        result = super().grad_input(s, pull, a)
        self._keep = 1.0
        return result


class InputGradientOverwrites(PlainDeformConv2d):
    """The last tap to reach a pixel wins: a lost update between threads."""

    def scatter(self, result: Tensor, index: Tensor, part: Tensor) -> Tensor:
        return result.scatter(3, index, part)


class InputGradientWithoutMask(PlainDeformConv2d):
    def input_modulation(self, s: Samples) -> Tensor:
        return torch.ones_like(s.modulation)


class InputGradientMissesOneRow(PlainDeformConv2d):
    """One row of one channel is never written."""

    def grad_input(self, s: Samples, pull: Tensor, a: Arguments) -> Tensor:
        result = super().grad_input(s, pull, a)
        result[-1, -1, -1] = 0
        return result


class WeightGradientOfLastImage(PlainDeformConv2d):
    def grad_weight(self, grad: Tensor, s: Samples, a: Arguments) -> Tensor:
        only_last = torch.zeros_like(grad)
        only_last[-1:] = grad[-1:]
        return super().grad_weight(only_last, s, a)


class WeightGradientWithoutMask(PlainDeformConv2d):
    def grad_weight(self, grad: Tensor, s: Samples, a: Arguments) -> Tensor:
        return super().grad_weight(grad, replace(s, modulation=torch.ones_like(s.modulation)), a)


class BiasGradientIsAMean(PlainDeformConv2d):
    def grad_bias(self, grad: Tensor, a: Arguments) -> Tensor:
        return super().grad_bias(grad, a) / grad.shape[0]


class UnseenTapsKeepGarbage(PlainDeformConv2d):
    """The gradients of taps outside the image are not written, and hold what the memory held."""

    def grad_mask(self, s: Samples, pull: Tensor) -> Tensor:
        return torch.where(s.live, super().grad_mask(s, pull), torch.nan)


class GradientsLeakNan(PlainDeformConv2d):
    """Zero times NaN is NaN: positions that are no numbers are multiplied away instead of left out."""

    def grad_position(self, s: Samples, pull: Tensor) -> tuple[Tensor, Tensor]:
        d_y, d_x = super().grad_position(s, pull)
        return self._spoiled(d_y), self._spoiled(d_x)

    def positions(self, a: Arguments) -> tuple[Tensor, Tensor]:
        y, x = super().positions(a)
        self._broken = ~(y + x).isfinite()
        return y, x

    def _spoiled(self, gradient: Tensor) -> Tensor:
        return torch.where(self._broken, torch.nan, gradient)
