# SPDX-License-Identifier: Apache-2.0
"""What is timed of RoI pooling: torchvision's RoIAlign, and pliant without offsets, with them, and for boxes too.

No other library has deformable RoI pooling on a CPU, so that RoIAlign, which does less, is what all is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import roi_align

from pliant.ops import deform_roi_pool
from pliant.ops._dispatch import Impl

Tensors = dict[str, Tensor]


@dataclass
class RoICase:
    """The second stage of a detector: boxes with sides of 32 to 600 pixels on one map of stride 16, sampling 2."""

    bins: int
    boxes: int = 512
    channels: int = 256
    height: int = 50
    width: int = 84
    stride: int = 16
    samples: int = 2

    baseline = "roi_align"
    modes = (False, True)  # whether training is timed
    threads: ClassVar[int | None] = None

    def __str__(self) -> str:
        image = f"({self.channels},{self.height},{self.width})"
        return f"{self.boxes} boxes {self.bins}x{self.bins} sampling {self.samples} of {image} float32"

    def tensors(self) -> Tensors:
        """Return input, rois, offset, mask and the gradient of the output."""
        generator = torch.Generator().manual_seed(0)
        picture = torch.tensor([self.width, self.height]) * self.stride
        sides = torch.exp(torch.rand(self.boxes, 2, generator=generator) * math.log(600 / 32)) * 32
        centres = torch.rand(self.boxes, 2, generator=generator) * picture
        corners = torch.stack([centres - sides / 2, centres + sides / 2], 1)
        inside = torch.minimum(corners.clamp(min=0), picture).flatten(1)
        maps = (self.boxes, 1, self.bins, self.bins)
        return {
            "input": torch.randn(1, self.channels, self.height, self.width, generator=generator),
            "rois": torch.cat([torch.zeros(self.boxes, 1), inside], 1),
            "offset": torch.randn(self.boxes, 2, *maps[2:], generator=generator) / 2,
            "mask": torch.rand(maps, generator=generator),
            "grad": torch.randn(self.boxes, self.channels, *maps[2:], generator=generator),
        }

    def contenders(self, *, training: bool) -> dict[str, Callable[[], object]]:
        """Return what runs the case, by name; `training` is forward and backward for the tensors named."""
        runs: dict[str, Callable[[], object]] = {}
        contiguous = self.tensors()
        channels_last = contiguous | {"input": contiguous["input"].contiguous(memory_format=torch.channels_last)}
        for layout, t in (("contiguous", contiguous), ("channels_last", channels_last)):
            runs[f"roi_align {layout}"] = timed(self.align, t, ["input"], training)
            runs[f"pliant rigid {layout}"] = timed(self.rigid, t, ["input"], training)
            runs[f"pliant deformed {layout}"] = timed(self.deformed, t, ["input", "offset", "mask"], training)
            if training:
                names = ["input", "rois", "offset", "mask"]
                runs[f"pliant with boxes {layout}"] = timed(self.deformed, t, names, training)
        return runs

    def check(self) -> None:
        """Raise unless pliant's results agree with RoIAlign, and with the reference for a few boxes."""
        t = self.tensors()
        torch.testing.assert_close(self.rigid(t), self.align(t), atol=1e-4, rtol=1e-4)
        few = t | {name: t[name][:8] for name in ("rois", "offset", "mask")}
        fast, slow = (self.deformed(few, impl) for impl in ("auto", "reference"))
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)

    def align(self, t: Tensors) -> Tensor:
        """Run RoIAlign, which wants boxes in the type of the image."""
        rois, scale = t["rois"].to(t["input"].dtype), 1 / self.stride
        result: Tensor = roi_align(t["input"], rois, self.bins, scale, self.samples, aligned=True)
        return result

    def rigid(self, t: Tensors, impl: Impl = "auto") -> Tensor:
        """Run pliant without offsets: RoIAlign."""
        scale, samples = 1 / self.stride, self.samples
        return deform_roi_pool(t["input"], t["rois"], self.bins, spatial_scale=scale, sampling_ratio=samples, impl=impl)

    def deformed(self, t: Tensors, impl: Impl = "auto") -> Tensor:
        """Run pliant with offsets and weights of the bins."""
        scale, samples, maps = 1 / self.stride, self.samples, (t["offset"], t["mask"])
        return deform_roi_pool(
            t["input"], t["rois"], self.bins, *maps, spatial_scale=scale, sampling_ratio=samples, impl=impl
        )


def timed(
    function: Callable[[Tensors], Tensor], tensors: Tensors, names: list[str], training: bool
) -> Callable[[], object]:
    """Return what runs `function`: alone, or in training with the gradients of the tensors named."""
    if not training:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(tensors)

        return forward
    leaves = {name: tensors[name].detach().requires_grad_() for name in names}

    def forward_backward() -> object:
        output = function(tensors | leaves)
        return output, *torch.autograd.grad(output, list(leaves.values()), tensors["grad"])

    return forward_backward
