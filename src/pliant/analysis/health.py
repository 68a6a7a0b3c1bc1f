# SPDX-License-Identifier: Apache-2.0
"""Offset health: whether the offsets and the modulation of each layer do something, and something sensible."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.analysis.record import OffsetField

STILL = 0.05  # cells: a tap that never moves farther than this does not move
STUCK = 0.01  # of the upper bound: modulation nearer to 0 or to its bound than this is stuck


@dataclass(frozen=True)
class OffsetHealth:
    """The offsets and modulation of one layer over some images.

    Attributes:
        layer: name of the layer.
        mean: mean of the absolute offset components, in cells of the layer's input.
        spread: standard deviation of the offset components around their mean, in cells.
        outside: share (0..1) of the samples that lie off the map.
        plain_outside: the same for the plain convolution with this grid.
        still_taps: taps that never moved farther than 0.05 cells, of `taps`.
        taps: offset groups times taps of the kernel.
        stuck_low: share of the samples whose modulation is within 1 % of 0; NaN for a layer without modulation.
        stuck_high: share of those within 1 % of its upper bound.
        samples: how many samples were counted.
    """

    layer: str
    mean: float
    spread: float
    outside: float
    plain_outside: float
    still_taps: int
    taps: int
    stuck_low: float
    stuck_high: float
    samples: int


def offset_health(fields: Iterable[OffsetField]) -> list[OffsetHealth]:
    """Return the health of each layer over all of its fields.

    Args:
        fields: what `record_offsets` gave, of one or many batches.

    Returns:
        One value for each layer, in the order in which the layers came. Offsets that are not finite make
        `mean` and `spread` NaN and count as outside.

    Example:
        >>> from pliant.analysis import record_offsets
        >>> from pliant.nn import DeformConv2d
        >>> health = offset_health(record_offsets(DeformConv2d(3, 4, 3, padding=1), torch.rand(1, 3, 8, 12)))[0]
        >>> health.still_taps, health.taps, health.stuck_low, health.stuck_high  # a new layer: nothing moves
        (9, 9, 0.0, 0.0)
    """
    meter = HealthMeter()
    meter.add(fields)
    return meter.rows()


class HealthMeter:
    """Offset health over many images, of which only sums are kept; see `offset_health`."""

    def __init__(self) -> None:
        self._layers: dict[str, _Sums] = {}

    def add(self, fields: Iterable[OffsetField]) -> None:
        """Count the samples of some fields."""
        for field in fields:
            self._layers.setdefault(field.layer, _Sums(field)).add(field)

    def rows(self) -> list[OffsetHealth]:
        """Return the health of each layer."""
        return [sums.health(layer) for layer, sums in self._layers.items()]


class _Sums:
    """Sums over the fields of one layer."""

    def __init__(self, field: OffsetField) -> None:
        self.limit = field.mask_limit
        self.samples, self.outside, self.plain_outside = 0, 0.0, 0.0
        self.absolute, self.total, self.squares, self.low, self.high = 0.0, 0.0, 0.0, 0.0, 0.0
        self.farthest = torch.zeros(field.offsets.shape[1:3])  # (G, K)

    def add(self, field: OffsetField) -> None:
        count = field.mask.numel()
        offsets = field.offsets.double()
        self.samples += count
        self.absolute += offsets.abs().sum().item()
        self.total += offsets.sum().item()
        self.squares += offsets.square().sum().item()
        self.outside += field.outside * count
        self.plain_outside += field.plain().outside * count
        self.farthest = torch.maximum(self.farthest, _farthest(field.offsets))
        if self.limit is not None:
            self.low += (field.mask < STUCK * self.limit).sum().item()
            self.high += (field.mask > (1 - STUCK) * self.limit).sum().item()

    def health(self, layer: str) -> OffsetHealth:
        components = max(2 * self.samples, 1)
        mean = self.total / components
        spread = self.squares / components - mean**2
        modulated = self.limit is not None and self.samples > 0
        return OffsetHealth(
            layer=layer,
            mean=self.absolute / components,
            spread=math.sqrt(max(spread, 0.0)) if math.isfinite(spread) else math.nan,
            outside=self.outside / max(self.samples, 1),
            plain_outside=self.plain_outside / max(self.samples, 1),
            still_taps=int((self.farthest <= STILL).sum()),
            taps=self.farthest.numel(),
            stuck_low=self.low / self.samples if modulated else math.nan,
            stuck_high=self.high / self.samples if modulated else math.nan,
            samples=self.samples,
        )


def _farthest(offsets: Tensor) -> Tensor:
    """How far each tap (G, K) moved at most, in cells; one that is not finite moved infinitely far."""
    moved: Tensor = offsets.norm(dim=-1).nan_to_num(nan=math.inf)  # (N, G, K, Ho, Wo)
    return moved.amax(dim=(0, 3, 4))
