# SPDX-License-Identifier: Apache-2.0
"""RoI poolings that are wrong, one bug each: what one operator has of the other, or one slip of the hand away."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from helpers.pooling.cases import RoIArguments
from helpers.pooling.plain import Line, PlainPSRoIPool, PlainRoIPool

# -- deform_roi_pool: where the samples stand --------------------------------------------------------------------------


class NoHalfPixel(PlainRoIPool):
    """RoIAlign before `aligned=True`."""

    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        begin, end = super().corners(boxes, axis)
        return begin + 0.5, end + 0.5


class HalfPixelBeforeScaling(PlainRoIPool):
    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        return (boxes[:, 2 - axis] - 0.5) * self.case.scale, (boxes[:, 4 - axis] - 0.5) * self.case.scale


class RoundedBoxes(PlainRoIPool):
    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        return super().corners(boxes.round(), axis)


class InclusiveEnd(PlainRoIPool):
    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        begin, end = super().corners(boxes, axis)
        return begin, end + self.case.scale


class SwappedAxes(PlainRoIPool):
    """Boxes as (y1, x1, y2, x2)."""

    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        return super().corners(boxes, 1 - axis)


class LeastSizeOne(PlainRoIPool):
    """RoIAlign before `aligned=True`."""

    def extent(self, begin: Tensor, end: Tensor) -> Tensor:
        return (end - begin).clamp(min=1)


class LeastSizeOfTheOtherOperator(PlainRoIPool):
    def extent(self, begin: Tensor, end: Tensor) -> Tensor:
        return (end - begin).clamp(min=0.1)


class SamplesAtTheCorner(PlainRoIPool):
    def in_bin(self, sample: Tensor) -> Tensor:
        return sample


class GridOfTheWholeBox(PlainRoIPool):
    def grid(self, extent: Tensor, axis: int) -> Tensor:
        return super().grid(extent, axis) if self.case.samples > 0 else extent.ceil().clamp(0)


class GridRoundedDown(PlainRoIPool):
    def grid(self, extent: Tensor, axis: int) -> Tensor:
        return super().grid(extent, axis) if self.case.samples > 0 else (extent / self.case.bins[axis]).floor().clamp(1)


class GridOfAtLeastOne(PlainRoIPool):
    """A box of no height would read its line; RoIAlign gives it no samples."""

    def grid(self, extent: Tensor, axis: int) -> Tensor:
        return super().grid(extent, axis).clamp(min=1)


class OffsetYFirst(PlainRoIPool):
    def shift(self, a: RoIArguments, axis: int, dtype: torch.dtype) -> Tensor:
        return super().shift(a, 1 - axis, dtype)


class NegatedOffset(PlainRoIPool):
    def shift(self, a: RoIArguments, axis: int, dtype: torch.dtype) -> Tensor:
        return -super().shift(a, axis, dtype)


class OffsetInPixels(PlainRoIPool):
    def unit(self, extent: Tensor, other: Tensor) -> Tensor:
        return torch.full_like(extent, self.case.gamma)


class OffsetWithoutGamma(PlainRoIPool):
    def unit(self, extent: Tensor, other: Tensor) -> Tensor:
        return extent


class OffsetInUnitsOfTheOtherSide(PlainRoIPool):
    def unit(self, extent: Tensor, other: Tensor) -> Tensor:
        return self.case.gamma * other


class OffsetInUnitsOfBins(PlainRoIPool):
    def unit(self, extent: Tensor, other: Tensor) -> Tensor:
        return self.case.gamma * extent / self.case.bins[0]


# -- deform_roi_pool: what they read -----------------------------------------------------------------------------------


class NothingOutside(PlainRoIPool):
    gap = 0.0


class HalfAPixelOutside(PlainRoIPool):
    gap = 0.5


class FarBorderExclusive(PlainRoIPool):
    def is_near(self, position: Tensor, size: int) -> Tensor:
        return (position >= -1) & (position < size)


class NearBorderExclusive(PlainRoIPool):
    """What the rule is in deformable convolution."""

    def is_near(self, position: Tensor, size: int) -> Tensor:
        return (position > -1) & (position <= size)


class FadesOutside(PlainRoIPool):
    """Zero padding in place of the border's value."""

    def corner(self, y: Line, x: Line, i: int, j: int) -> tuple[Tensor, Tensor]:
        w_y, w_x = super().corner(y, x, i, j)
        return w_y * _fade(y)[..., :, None, None], w_x * _fade(x)[..., None, :, None]


def _fade(line: Line) -> Tensor:
    return torch.where(line.position < 0, 1 + line.position, 1.0)


class CountsOnlyRead(PlainRoIPool):
    def divisor(self, a: RoIArguments, y: Line, x: Line) -> Tensor:
        return self.live(y, x).sum((4, 5)).clamp(min=1)


class SumsInPlaceOfMean(PlainRoIPool):
    def divisor(self, a: RoIArguments, y: Line, x: Line) -> Tensor:
        return torch.ones_like(super().divisor(a, y, x))


class FirstImageForAll(PlainRoIPool):
    def image(self, boxes: Tensor) -> Tensor:
        return torch.zeros_like(super().image(boxes))


class BoxesInOrderOfImages(PlainRoIPool):
    def image(self, boxes: Tensor) -> Tensor:
        return super().image(boxes).sort()[0]


class MaskOfTheNextBox(PlainRoIPool):
    def mask(self, a: RoIArguments, dtype: torch.dtype) -> Tensor:
        return super().mask(a, dtype).roll(1, 0)


class MaskOnSamplesRead(PlainRoIPool):
    """The mask weighs the divisor too, as in an attention: it cancels."""

    def divisor(self, a: RoIArguments, y: Line, x: Line) -> Tensor:
        return super().divisor(a, y, x) * self.mask(a, y.fraction.dtype)


# -- deform_roi_pool: gradients ----------------------------------------------------------------------------------------


class NoBoxGradient(PlainRoIPool):
    """What torchvision gives."""

    def grad_boxes(self, a: RoIArguments, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        return torch.zeros_like(a.boxes)


class BoxGradientWithoutScale(PlainRoIPool):
    def grad_boxes(self, a: RoIArguments, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        return super().grad_boxes(a, y, x) / self.case.scale


class BoxMovesRigidly(PlainRoIPool):
    def at_corners(self, total: Tensor, by_end: Tensor) -> tuple[Tensor, Tensor]:
        return total / 2, total / 2


class BoxCornersSwapped(PlainRoIPool):
    def at_corners(self, total: Tensor, by_end: Tensor) -> tuple[Tensor, Tensor]:
        return by_end, total - by_end


class BoxGradientForgetsTheOffset(PlainRoIPool):
    """The shift grows with the box."""

    def grad_boxes(self, a: RoIArguments, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        lines = []
        for axis, (line, d) in enumerate((y, x)):
            shift = self.shift(a, axis, d.dtype)
            place = line.place - self.case.gamma * torch.where(shift.isfinite(), shift, 0).unsqueeze(-1)
            lines.append((line._replace(place=place), d))
        return super().grad_boxes(a, lines[0], lines[1])


class SlopeAtTheBorder(PlainRoIPool):
    """Held samples pass a gradient on."""

    def moves(self, position: Tensor, size: int) -> Tensor:
        return torch.ones_like(position, dtype=torch.bool)


class LeftHandSlope(PlainRoIPool):
    def moves(self, position: Tensor, size: int) -> Tensor:
        return super().moves(position, size) & (position > 0)


class SlopesSwapped(PlainRoIPool):
    def slopes(self, values: list[Tensor], y: Line, x: Line) -> tuple[Tensor, Tensor]:
        slope_y, slope_x = super().slopes(values, y, x)
        return slope_x, slope_y


class GradientWithoutMask(PlainRoIPool):
    def pull(self, u: Tensor, mask: Tensor, divisor: Tensor) -> Tensor:
        return u / divisor


class MaskGradientTimesMask(PlainRoIPool):
    def run(self, case, a, upstream):  # type: ignore[no-untyped-def]
        output, gradients = super().run(case, a, upstream)
        if "mask" in gradients:
            gradients["mask"] = gradients["mask"] * a.mask
        return output, gradients


class LastBoxWinsThePixel(PlainRoIPool):
    """A scatter that stores where it should add."""

    def scatter(self, result: Tensor, index: tuple[Tensor, ...], part: Tensor) -> None:
        result[tuple(t.expand_as(part) for t in index)] = part


class OffsetGradientYFirst(PlainRoIPool):
    def grad_offset(self, offset: Tensor, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        return super().grad_offset(offset, y, x).flip(1)


class OffsetGradientWithoutUnit(PlainRoIPool):
    def grad_offset(self, offset: Tensor, y: tuple[Line, Tensor], x: tuple[Line, Tensor]) -> Tensor:
        ones = (y[0]._replace(extent=torch.ones_like(y[0].extent)), x[0]._replace(extent=torch.ones_like(x[0].extent)))
        return super().grad_offset(offset, (ones[0], y[1]), (ones[1], x[1]))


# -- deform_ps_roi_pool ------------------------------------------------------------------------------------------------


class PSUnroundedBoxes(PlainPSRoIPool):
    def round(self, corner: Tensor) -> Tensor:
        return corner


class PSHalvesToEven(PlainPSRoIPool):
    """`torch.round` in place of C's."""

    def round(self, corner: Tensor) -> Tensor:
        return corner.round()


class PSHalvesUp(PlainPSRoIPool):
    """floor(x + 1/2), which goes the other way below zero."""

    def round(self, corner: Tensor) -> Tensor:
        return (corner + 0.5).floor()


class PSExclusiveEnd(PlainPSRoIPool):
    def corners(self, boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        begin, end = super().corners(boxes, axis)
        return begin, end - self.case.scale


class PSNoLeastSize(PlainPSRoIPool):
    def extent(self, begin: Tensor, end: Tensor) -> Tensor:
        return end - begin


class PSCentredSamples(PlainPSRoIPool):
    def in_bin(self, sample: Tensor) -> Tensor:
        return sample + 0.5


class PSReadsAPixelOutside(PlainPSRoIPool):
    gap = 1.0


class PSCountsAll(PlainPSRoIPool):
    def divisor(self, a: RoIArguments, y: Line, x: Line) -> Tensor:
        return torch.full_like(super().divisor(a, y, x), self.case.samples**2)


class PSGroupsTransposed(PlainPSRoIPool):
    def channel(self) -> Tensor:
        group = self.case.group
        rows, columns = (torch.arange(b) * group // b for b in self.case.bins)
        outputs = torch.arange(self.case.channels).view(-1, 1, 1)
        return (outputs * group + columns) * group + rows.view(-1, 1)


class PSGroupsOutermost(PlainPSRoIPool):
    """R-FCN's own order of channels: groups, then outputs."""

    def channel(self) -> Tensor:
        group = self.case.group
        rows, columns = (torch.arange(b) * group // b for b in self.case.bins)
        cells = rows.view(-1, 1) * group + columns
        return cells * self.case.channels + torch.arange(self.case.channels).view(-1, 1, 1)


class PSGroupIsTheBin(PlainPSRoIPool):
    """Right only where there are as many groups as bins."""

    def channel(self) -> Tensor:
        group = self.case.group
        rows, columns = (torch.arange(b).clamp(max=group - 1) for b in self.case.bins)
        outputs = torch.arange(self.case.channels).view(-1, 1, 1)
        return (outputs * group + rows.view(-1, 1)) * group + columns


class PSPartIsTheBin(PlainPSRoIPool):
    """Right only where there are as many parts as bins."""

    def part_of_bin(self, axis: int) -> Tensor:
        return torch.arange(self.case.bins[axis]).clamp(max=self.case.maps[axis] - 1)


class PSFirstClassForAll(PlainPSRoIPool):
    def shift(self, a: RoIArguments, axis: int, dtype: torch.dtype) -> Tensor:
        return super().shift(a, axis, dtype)[:, :1]


class PSClassesInterleaved(PlainPSRoIPool):
    """Channel c belongs to class c % classes."""

    def by_class(self, t: Tensor) -> Tensor:
        return t.unflatten(-3, (-1, self.case.classes)).transpose(-3, -4)

    def run(self, case, a, upstream):  # type: ignore[no-untyped-def]
        output, gradients = super().run(case, a, upstream)
        return output.unflatten(1, (case.classes, -1)).transpose(1, 2).flatten(1, 2), gradients


class PSAllXThenAllY(PlainPSRoIPool):
    def shift(self, a: RoIArguments, axis: int, dtype: torch.dtype) -> Tensor:
        planar = None if a.offset is None else a.offset.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return super().shift(a._replace(offset=planar), axis, dtype)


class PSRightHandSlopes(PlainPSRoIPool):
    """On a pixel the papers' code gives no slope."""

    def neighbours(self, held: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return PlainRoIPool.neighbours(self, held, size)

    def moves(self, position: Tensor, size: int) -> Tensor:
        return PlainRoIPool.moves(self, position, size)


class PSPartGradientOfTheLastBin(PlainPSRoIPool):
    """Bins of a part should add up."""

    def to_parts(self, grad: Tensor) -> Tensor:
        result = torch.zeros(*grad.shape[:2], *self.case.maps, dtype=grad.dtype)
        for i, row in enumerate(self.part_of_bin(0).tolist()):
            for j, column in enumerate(self.part_of_bin(1).tolist()):
                result[:, :, row, column] = grad[:, :, i, j]
        return result


class PSMaskGradientWithoutCount(PlainPSRoIPool):
    def gradients(self, a, y, x, values, u, pull, mean):  # type: ignore[no-untyped-def]
        return super().gradients(a, y, x, values, u, pull, mean * self.divisor(a, y, x))


MUTANTS: tuple[type[PlainRoIPool], ...] = tuple(
    v
    for v in vars(sys.modules[__name__]).values()
    if isinstance(v, type) and issubclass(v, PlainRoIPool) and v.__module__ == __name__
)
