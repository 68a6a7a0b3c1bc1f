# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling over a feature pyramid, in the place of torchvision's `MultiScaleRoIAlign`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from pliant._check import fail, suggest
from pliant.nn import DeformRoIPool
from pliant.nn.deform_roi_pool import Branch
from pliant.ops._boxes import joined

ROI_POOLS = ("align", "deform", "modulated")


class MultiScaleDeformRoIPool(MultiScaleRoIAlign):  # type: ignore[misc]
    """Deformable RoI pooling of regions from the level of a feature pyramid that suits their size.

    The arguments up to `canonical_level` and the call are those of `torchvision.ops.MultiScaleRoIAlign`, of which this
    is a subclass because torchvision's detectors ask for one: it goes into `FasterRCNN(box_roi_pool=...)` and
    `MaskRCNN(mask_roi_pool=...)`. Levels follow the regions' sizes by the same rule. Each call takes the scales of the
    maps from their longer sides and those of the images, where torchvision keeps those of its first call's heights.

    Args:
        featmap_names: names of the maps to pool from, in the order of their strides, the finest first.
        output_size: bins of a region, an integer or (Ph, Pw).
        sampling_ratio: samples per bin and axis; 0 takes as many as the bin is cells wide, rounded up.
        in_channels: channels of each map.
        canonical_scale: side in pixels of the square region which ...
        canonical_level: ... is pooled from the map of stride `2**canonical_level`.
        gamma: factor on the offsets.
        modulated: v2 (offsets and weights of the bins) if true, v1 (offsets alone) if false.
        hidden_channels: width of the hidden layers of the offset branch.
        branch: layers of the offset branch, see `pliant.nn.DeformRoIPool`.
        shared: one offset branch for all levels, as a detector's box head is one for all: v2's branch has 14 million
            parameters for 7x7 bins of 256 channels and 53 million for 14x14. False gives each level its own, as the
            official v1 feature pyramid and mmdetection do.

    Shape:
        a dict of maps (N, in_channels, H/s, W/s), a list of boxes (Li, 4) in pixels of the padded images, and a list
        of the images' (height, width) before padding; output (sum of Li, in_channels, Ph, Pw).

    Raises:
        ValueError: a size is below 1, or no map has one of the names.

    Example:
        >>> import torch
        >>> pool = MultiScaleDeformRoIPool(["0", "1"], output_size=7, sampling_ratio=2, in_channels=8)
        >>> maps = {"0": torch.rand(1, 8, 24, 32), "1": torch.rand(1, 8, 12, 16)}
        >>> boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [0.0, 0.0, 126.0, 90.0]])
        >>> pool(maps, [boxes], [(96, 128)]).shape
        torch.Size([2, 8, 7, 7])

    References:
        Feature Pyramid Networks (arXiv 1612.03144), Eq. 1; Deformable ConvNets v2 (arXiv 1811.11168), section 3.2.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        in_channels: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
        gamma: float = 0.1,
        modulated: bool = True,
        hidden_channels: int = 1024,
        branch: Branch = "paper",
        shared: bool = True,
    ) -> None:
        size = output_size if isinstance(output_size, int) else tuple(output_size)
        super().__init__(
            list(featmap_names),
            size,
            sampling_ratio,
            canonical_scale=canonical_scale,
            canonical_level=canonical_level,
        )
        self.levels = nn.ModuleList(
            DeformRoIPool(
                size,
                in_channels,
                sampling_ratio=sampling_ratio,
                gamma=gamma,
                modulated=modulated,
                hidden_channels=hidden_channels,
                branch=branch,
            )
            for _ in range(1 if shared else len(featmap_names))
        )

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Return the pooled regions, in the order of `boxes`."""
        maps = [x[name] for name in self.featmap_names if name in x]
        if len(maps) != len(self.featmap_names):
            fail("x", f"must have the maps {', '.join(self.featmap_names)}", ", ".join(x), "check featmap_names")
        scales = _scales(maps, image_shapes)
        regions = joined(boxes)  # (R, 5)
        levels = self._level_of(boxes, scales)
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        for k, (feature, scale) in enumerate(zip(maps, scales, strict=True)):
            # A level without regions is pooled too: its branch then has gradients, zeros, as parallel training needs.
            index = torch.where(levels == k)[0]
            pool = self.levels[k % len(self.levels)]
            pooled[index] = pool(feature, regions[index], scale).to(pooled.dtype)
        return pooled

    def _level_of(self, boxes: list[Tensor], scales: Sequence[float]) -> Tensor:
        """Return the index of the map of each region (R,), by Eq. 1 of the FPN paper."""
        first, last = (round(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        level: Tensor = LevelMapper(first, last, self.canonical_scale, self.canonical_level)(boxes)
        return level

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def extra_repr(self) -> str:
        """Return the names of the maps."""
        return f"featmap_names={self.featmap_names}"


def roi_pool(
    kind: str,
    featmap_names: Sequence[str],
    output_size: int,
    in_channels: int,
    *,
    sampling_ratio: int = 2,
    branch: Branch = "paper",
    shared: bool = True,
) -> MultiScaleRoIAlign:
    """Return RoI pooling over a pyramid: `align` (torchvision's RoIAlign), `deform` (v1) or `modulated` (v2).

    The other arguments are those of `MultiScaleDeformRoIPool`; RoIAlign has no offset branch and reads none of them.

    Raises:
        PliantError: `kind` is none of the three.

    Example:
        >>> roi_pool("align", ["0", "1"], output_size=7, in_channels=256)
        MultiScaleRoIAlign(featmap_names=['0', '1'], output_size=(7, 7), sampling_ratio=2)
    """
    if kind not in ROI_POOLS:
        fix = f"use 'modulated', for example.{suggest(kind, ROI_POOLS)}"
        fail("roi_pool", f"must be one of {', '.join(ROI_POOLS)}", repr(kind), fix)
    if kind == "align":
        return MultiScaleRoIAlign(list(featmap_names), output_size, sampling_ratio)
    return MultiScaleDeformRoIPool(
        featmap_names,
        output_size,
        sampling_ratio,
        in_channels,
        modulated=kind == "modulated",
        branch=branch,
        shared=shared,
    )


def _scales(maps: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[float]:
    """Cells per pixel of each map, the power of two next to the quotient of its longer side and the images'.

    The longer, because images are padded: an image of 66 x 1333 pixels is one of 96 x 1344 in the network.
    """
    sides = [max(lengths) for lengths in zip(*image_shapes, strict=True)]  # height and width
    longer = 0 if sides[0] >= sides[1] else 1
    return [2.0 ** round(math.log2(feature.shape[longer - 2] / sides[longer])) for feature in maps]
