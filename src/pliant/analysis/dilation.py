# SPDX-License-Identifier: Apache-2.0
"""Effective dilation: the distance of a filter's neighbouring samples, by size of the object under it (v1, Table 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.analysis.record import OffsetField

SMALL_AREA, MEDIUM_AREA = 32.0**2, 96.0**2  # COCO's limits, in pixels of the photograph
SIZES = ("small", "medium", "large", "background")


def effective_dilation(positions: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    r"""Return the mean distance between adjacent samples of each filter.

    .. math:: D = \frac{1}{|A|} \sum_{(j, k) \in A} \| p_j - p_k \|

    A holds the pairs of taps that are neighbours in a row or a column of the kernel: 12 of a 3x3 kernel. The paper says
    "adjacent pairs" and not whether diagonal ones count; here they do not. Without offsets D is the dilation, if that
    is the same in both directions.

    Args:
        positions: (..., K, Ho, Wo, 2) sampling positions in cells of the layer's input, taps row-major:
            `OffsetField.cells`.
        kernel_size: (kh, kw), K = kh * kw.

    Returns:
        (..., Ho, Wo), in cells of the layer's input; NaN for a kernel of one tap, which has no pair.

    Example:
        >>> positions = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 6.0]]).reshape(3, 1, 1, 2)  # three taps in a row
        >>> effective_dilation(positions, (1, 3)).item()  # (5 + 2) / 2
        3.5

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 4.2 and Table 2.
    """
    taps = positions.unflatten(-4, kernel_size)  # (..., kh, kw, Ho, Wo, 2)
    down = (taps.diff(dim=-5)).norm(dim=-1).flatten(-4, -3)
    right = (taps.diff(dim=-4)).norm(dim=-1).flatten(-4, -3)
    return torch.cat([down, right], dim=-3).mean(dim=-3)


@dataclass(frozen=True)
class DilationRow:
    """Effective dilation of the filters of one layer on objects of one size, or on the background.

    Attributes:
        layer: name of the layer.
        size: small, medium, large or background.
        mean: the mean effective dilation, in cells of the layer's input; NaN without filters.
        spread: its standard deviation over the filters.
        filters: how many filters were counted: output cells times offset groups.
    """

    layer: str
    size: str
    mean: float
    spread: float
    filters: int


class DilationBySize:
    """Effective dilation over many images, by the size of the object under the filter's centre.

    A filter belongs to the smallest box that holds the centre of its output cell, or to the background. Sizes are
    COCO's: small below 32^2 pixels of area, large from 96^2. The paper states neither limits nor what counts where
    boxes overlap: both are our reading.

    Example:
        >>> from pliant.analysis import record_offsets
        >>> from pliant.nn import DeformConv2d
        >>> table = DilationBySize()
        >>> fields = record_offsets(DeformConv2d(3, 4, 3, padding=2, dilation=2), torch.rand(1, 3, 8, 12))
        >>> table.add(fields, torch.tensor([[0.0, 0.0, 6.0, 8.0]]), torch.tensor([48.0]))
        >>> [(row.size, row.mean, row.filters) for row in table.rows() if row.filters]
        [('small', 2.0, 48), ('background', 2.0, 48)]
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # for each layer (4, 3): number, sum and sum of squares

    def add(self, fields: Sequence[OffsetField], boxes: Tensor, areas: Tensor) -> None:
        """Count the filters of one image.

        Args:
            fields: the layers' fields, of one image.
            boxes: (L, 4) true boxes x1, y1, x2, y2 in pixels of the network's input image.
            areas: (L,) their areas in pixels of the photograph.
        """
        for field in fields:
            dilation = effective_dilation(field.cells[0], field.kernel_size).double()  # (G, Ho, Wo)
            kinds = _sizes_under(field, boxes, areas).expand_as(dilation)
            known = dilation.isfinite()
            sums = self._sums.setdefault(field.layer, torch.zeros(len(SIZES), 3, dtype=torch.float64))
            for moment in range(3):
                sums[:, moment].index_add_(0, kinds[known], dilation[known] ** moment)

    def rows(self) -> list[DilationRow]:
        """Return a row for each layer and size, in the order in which the layers came."""
        found = []
        for layer, sums in self._sums.items():
            for size, (number, total, squares) in zip(SIZES, sums.tolist(), strict=True):
                mean = total / number if number else math.nan
                spread = math.sqrt(max(0.0, squares / number - mean**2)) if number else math.nan
                found.append(DilationRow(layer, size, mean, spread, int(number)))
        return found


def _sizes_under(field: OffsetField, boxes: Tensor, areas: Tensor) -> Tensor:
    """The index into SIZES (Ho, Wo) of what lies under the centre of each output cell."""
    height, width = field.output_size
    y = (torch.arange(height)[:, None] + 0.5) * field.output_stride[0]
    x = (torch.arange(width) + 0.5) * field.output_stride[1]
    kinds = torch.full((height, width), SIZES.index("background"))
    for i in areas.argsort(descending=True).tolist():  # the smallest box last, above the others
        x1, y1, x2, y2 = boxes[i].tolist()
        kind = int(areas[i] >= SMALL_AREA) + int(areas[i] >= MEDIUM_AREA)
        kinds[((y >= y1) & (y < y2) & (x >= x1) & (x < x2))] = kind
    return kinds
