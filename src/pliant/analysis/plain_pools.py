# SPDX-License-Identifier: Apache-2.0
"""Watches plain RoIAlign, torchvision's operator: deformable RoI pooling whose bins have no offsets.

The operator is watched and not the modules around it, so that it does not matter who calls it: `MultiScaleRoIAlign`
(for each map of a pyramid), `RoIAlign`, or a detector's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pliant.ops import deform_roi_pool


@dataclass(frozen=True)
class PlainPooling:
    """A call of RoIAlign in the terms of `pliant.ops.deform_roi_pool`.

    Attributes:
        input: (N, C, H, W), the map.
        regions: (R, 5) image index and corners that the bins divide, in pixels as the operator takes them.
        output_size: bins of a region.
        spatial_scale: cells of the map per pixel.
        sampling_ratio: samples per bin and axis, or 0.
    """

    input: Tensor
    regions: Tensor
    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int

    @property
    def no_shift(self) -> Tensor:
        """Shifts of the bins (R, 1, 2, Ph, Pw) in units of the region's size: zeros."""
        return self.regions.new_zeros(len(self.regions), 1, 2, *self.output_size, dtype=torch.float32)

    def pooled(self, shift: Tensor) -> Tensor:
        """Return the output (R, C, Ph, Pw) with the bins shifted (R, 2, Ph, Pw) in units of the region's size."""
        scale, ratio = self.spatial_scale, self.sampling_ratio
        return deform_roi_pool(self.input, self.regions, self.output_size, shift, None, scale, ratio, gamma=1.0)


Tell = Callable[[str, PlainPooling, Tensor], Tensor]  # name of the module that pools, the call, its output


@contextmanager
def roi_align_told(network: nn.Module, tell: Tell) -> Iterator[None]:
    """Give `tell` each call of RoIAlign in `network`; what it returns goes on in the place of the output.

    Afterwards nothing is watched any more, also when the network raises.
    """
    running: list[str] = []
    handles: list[Any] = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(_begins(name, running)))
        handles.append(module.register_forward_hook(_ends(running)))
    try:
        with _Watch(running, tell):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _begins(name: str, running: list[str]) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        running.append(name)

    return hook


def _ends(running: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    return hook


class _Watch(TorchFunctionMode):
    def __init__(self, running: Sequence[str], tell: Tell) -> None:
        super().__init__()
        # Where torchvision is not loaded nobody can call it.
        self.operator = getattr(torch.ops.torchvision, "roi_align", None)
        self.running, self.tell = running, tell

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if self.operator is None or function is not self.operator:
            return output
        return self.tell(self.running[-1] if self.running else "", _call(*args, **(kwargs or {})), output)


def _call(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> PlainPooling:
    """A call with the operator's arguments, which have the names of its schema."""
    regions = rois.detach().float()
    if not aligned:
        # The old rule takes corners for cells' centres, so that all is read half a cell further to the lower right,
        # and no region is smaller than a cell.
        cell = 1 / spatial_scale
        corner = regions[:, 1:3] + cell / 2
        size = (regions[:, 3:] - regions[:, 1:3]).clamp(min=cell)
        regions = torch.cat([regions[:, :1], corner, corner + size], dim=1)
    return PlainPooling(input.detach(), regions, (pooled_height, pooled_width), spatial_scale, max(sampling_ratio, 0))
