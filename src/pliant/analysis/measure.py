# SPDX-License-Identifier: Apache-2.0
"""Watches the offsets of a network while it trains: their size, their spread, and how many samples leave the map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pliant._geometry import ConvGeometry
from pliant.analysis.record import Hook, sampling_positions, share_outside, split_branch
from pliant.analysis.regions import PoolHook, call_arguments, region_shifts, shifted_bins
from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool

# A sample has run away when it is farther from its place than most maps are wide; a bin, when it is farther than two of
# its region. Half of either off the map is no accident, but for the samples that are there in a plain convolution too:
# three by three taps on a map of two by two cells have more than half of theirs there. Nor is it one where offsets are
# smaller than a cell, or a sixteenth of a region: dilated taps on a small map lie on its border, very near to outside.
MAX_MEAN_CELLS = 32.0
MAX_MEAN_REGIONS = 2.0
MAX_SHARE_OUTSIDE = 0.5
SMALL = 1 / 32  # of the largest mean


@dataclass(frozen=True)
class LayerOffsets:
    """Offsets of one layer over one batch.

    Attributes:
        mean: mean of the absolute offset components: of a convolution, in cells of its input; of RoI pooling, in units
            of the region's width and height.
        spread: their standard deviation around zero, sqrt(mean(offset^2)).
        outside: share (0..1) of the samples, or of the bins' centres, that lie off the map.
        limit: the mean from which offsets mean nothing any more.
        plain_outside: share of the samples that lie off the map with offsets of zero.
    """

    mean: float
    spread: float
    outside: float
    limit: float = MAX_MEAN_CELLS
    plain_outside: float = 0.0

    def ran_away(self) -> bool:
        """Whether the offsets mean nothing any more: not finite, beyond `limit` on average, or mostly off the map."""
        finite = torch.tensor([self.mean, self.spread]).isfinite().all().item()
        left = self.outside - self.plain_outside > MAX_SHARE_OUTSIDE * (1 - self.plain_outside)
        return not finite or self.mean > self.limit or (left and self.mean >= SMALL * self.limit)

    def as_dict(self) -> dict[str, float]:
        """Return the three numbers, rounded for a metrics file."""
        return {name: round(getattr(self, name), 5) for name in ("mean", "spread", "outside")}


class OffsetWatch:
    """Measures the deformable layers of a network, convolutions and RoI pooling, during chosen forward passes.

    Args:
        network: any module; one without deformable layers has nothing to measure.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool
        >>> watch = OffsetWatch(torch.nn.Sequential(DeformConv2d(3, 4, 3, padding=1)))
        >>> with watch.measuring():
        ...     _ = watch.network(torch.zeros(1, 3, 8, 8))
        >>> watch.layers["0"].mean
        0.0
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.layers: dict[str, LayerOffsets] = {}
        modules = list(network.named_modules())
        self._convolutions = {name: m for name, m in modules if isinstance(m, DeformConv2d)}
        self._pools = {name: m for name, m in modules if isinstance(m, DeformRoIPool | DeformPSRoIPool)}

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure what the layers do inside this context; `layers` holds the first call of each afterwards.

        The first, since feature mimicking sends the batch's images through the backbone before their crops. Of RoI
        pooling the first with regions: a layer that serves all maps of a pyramid is called for each.
        """
        self.layers.clear()
        handles = [m.conv_offset.register_forward_hook(self._hook(name, m)) for name, m in self._convolutions.items()]
        handles += [
            m.register_forward_pre_hook(self._pool_hook(name), with_kwargs=True) for name, m in self._pools.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def runaways(self) -> list[str]:
        """Return the names of the layers whose offsets ran away."""
        return [name for name, offsets in self.layers.items() if offsets.ran_away()]

    def _hook(self, name: str, layer: DeformConv2d) -> Hook:
        geometry = ConvGeometry(layer.stride, layer.padding, layer.dilation)

        @torch.no_grad()
        def hook(module: nn.Module, args: tuple[Tensor, ...], raw: Tensor) -> None:
            if name in self.layers:
                return
            offset, _ = split_branch(layer, raw.detach())
            cells = sampling_positions(offset, layer.kernel_size, geometry)
            plain = sampling_positions(torch.zeros_like(offset[:1]), layer.kernel_size, geometry)
            outside, undisplaced = (share_outside(c, (args[0].shape[-2], args[0].shape[-1])) for c in (cells, plain))
            spread = offset.square().mean().sqrt().item()
            self.layers[name] = LayerOffsets(offset.abs().mean().item(), spread, outside, plain_outside=undisplaced)

        return hook

    def _pool_hook(self, name: str) -> PoolHook:
        @torch.no_grad()
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert isinstance(layer, DeformRoIPool | DeformPSRoIPool)
            if name in self.layers:
                return
            args = call_arguments(layer, args, kwargs)
            regions, shift, _ = region_shifts(layer, args)
            if not len(regions):
                return
            own = isinstance(layer, DeformPSRoIPool) or args[2] is None  # in DeformRoIPool, of this call
            scale = layer.spatial_scale if own else args[2]
            bins = shifted_bins(regions[:, 1:], shift)  # in pixels, 0 at the map's border
            centres = ((bins[..., :2] + bins[..., 2:]) / 2 * scale - 0.5).flip(-1)  # (..., 2): y, x in cells
            outside = share_outside(centres, (args[0].shape[-2], args[0].shape[-1]))
            spread = shift.square().mean().sqrt().item()
            self.layers[name] = LayerOffsets(shift.abs().mean().item(), spread, outside, MAX_MEAN_REGIONS)

        return hook
