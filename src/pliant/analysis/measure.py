# SPDX-License-Identifier: Apache-2.0
"""Watches the offsets of a network while it trains: their size, their spread, and how many samples leave the map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pliant._geometry import ConvGeometry
from pliant.nn import DeformConv2d

from .record import Hook, sampling_positions, share_outside, split_branch

# A sample has run away when it is farther from its place than most maps are wide; half of them is no accident.
MAX_MEAN_OFFSET = 32.0
MAX_SHARE_OUTSIDE = 0.5


@dataclass(frozen=True)
class LayerOffsets:
    """Offsets of one layer over one batch.

    Attributes:
        mean: mean of the absolute offset components, in cells of the layer's input.
        spread: their standard deviation around zero, sqrt(mean(offset^2)).
        outside: share (0..1) of the samples that lie off the map.
    """

    mean: float
    spread: float
    outside: float

    def ran_away(self) -> bool:
        """Whether the offsets mean nothing any more: not finite, beyond 32 cells on average, or mostly off the map."""
        finite = torch.tensor([self.mean, self.spread]).isfinite().all().item()
        return not finite or self.mean > MAX_MEAN_OFFSET or self.outside > MAX_SHARE_OUTSIDE

    def as_dict(self) -> dict[str, float]:
        """Return the three numbers, rounded for a metrics file."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


class OffsetWatch:
    """Measures the deformable layers of a network during chosen forward passes.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformConv2d
        >>> watch = OffsetWatch(torch.nn.Sequential(DeformConv2d(3, 4, 3, padding=1)))
        >>> with watch.measuring():
        ...     _ = watch.network(torch.zeros(1, 3, 8, 8))
        >>> watch.layers["0"].mean
        0.0
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.layers: dict[str, LayerOffsets] = {}
        self._watched = {name: m for name, m in network.named_modules() if isinstance(m, DeformConv2d)}

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure what the layers do inside this context; `layers` holds the first call of each afterwards.

        The first, since feature mimicking sends the batch's images through the backbone before their crops.
        """
        self.layers.clear()
        handles = [m.conv_offset.register_forward_hook(self._hook(name, m)) for name, m in self._watched.items()]
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
            outside = share_outside(cells, (args[0].shape[-2], args[0].shape[-1]))
            spread = offset.square().mean().sqrt().item()
            self.layers[name] = LayerOffsets(offset.abs().mean().item(), spread, outside)

        return hook
