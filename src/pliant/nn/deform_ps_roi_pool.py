# SPDX-License-Identifier: Apache-2.0
"""Position-sensitive deformable RoI pooling as a layer: R-FCN's, whose offsets come from a convolution."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant.nn.deform_roi_pool import refuse_script
from pliant.nn.offset_branch import OffsetConv2d
from pliant.ops import deform_ps_roi_pool
from pliant.ops._boxes import Boxes
from pliant.ops._checks import integer, number


class DeformPSRoIPool(nn.Module):
    r"""Position-sensitive RoI pooling of score maps, with bins that move for each region and class.

    .. math:: y_c(i, j) = \frac{1}{n_{ij}} \sum_{p \in bin(i, j)} x_{c,i,j}(p_0 + p + \Delta p_{c,i,j}), \quad
              \Delta p = \gamma \cdot \Delta \hat p \circ (w, h)

    A 1x1 convolution on the features, `conv_offset`, makes maps of offsets, two for each class and position; pooled
    like the scores, without offsets of their own, they are the normalized offsets of each region's bins. The
    convolution starts at zero, so that the layer starts as position-sensitive RoI pooling. Samples outside the map are
    not counted, as in `pliant.ops.deform_ps_roi_pool`.

    The official R-FCN has two: for the class scores with an offset for each class (`output_channels` = `classes` =
    C + 1), and for the boxes with one for all (`output_channels` = 8, `classes` = 1).

    Args:
        output_size: P, bins of a region along each axis.
        in_channels: channels of the feature map that the offsets are computed from.
        output_channels: channels of a pooled region; the score map has `output_channels * group_size**2`.
        spatial_scale: cells of the maps per pixel of the boxes, 1/16 for a map of stride 16.
        classes: how many sets of offsets there are; must divide `output_channels`. None: one for each output channel.
        group_size: G, positions along each axis that have score maps of their own; None: `output_size`, as in R-FCN.
        part_size: offsets along each axis; None: `output_size`, an offset for each bin.
        samples_per_bin: samples along each axis of a bin.
        gamma: factor on the offsets; 0.1 in the papers.
        device: where the parameters are made, as for `torch.nn.Conv2d`.
        dtype: their type.

    Shape:
        scores (N, output_channels*G*G, H, W); features (N, in_channels, H, W); boxes (R, 5) of image index, x1, y1,
        x2, y2 in pixels, or a list of (Li, 4), one for each image; output (R, output_channels, P, P).

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a size is below 1, or `classes` does not divide `output_channels`.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformPSRoIPool
        >>> pool = DeformPSRoIPool(3, in_channels=16, output_channels=5, spatial_scale=1 / 16)
        >>> scores, features = torch.rand(1, 5 * 3 * 3, 20, 25), torch.rand(1, 16, 20, 25)
        >>> pool(scores, features, torch.tensor([[0, 8.0, 16.0, 90.0, 120.0]])).shape
        torch.Size([1, 5, 3, 3])

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.2 and Fig. 4.
    """

    conv_offset: OffsetConv2d

    def __init__(
        self,
        output_size: int,
        in_channels: int,
        output_channels: int,
        spatial_scale: float = 1.0,
        *,
        classes: int | None = None,
        group_size: int | None = None,
        part_size: int | None = None,
        samples_per_bin: int = 4,
        gamma: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.output_size = integer("output_size", output_size, 1)
        self.in_channels = integer("in_channels", in_channels, 1)
        self.output_channels = integer("output_channels", output_channels, 1)
        self.spatial_scale = number("spatial_scale", spatial_scale, positive=True)
        self.samples_per_bin, self.gamma = integer("samples_per_bin", samples_per_bin, 1), number("gamma", gamma)
        self.classes = self.output_channels if classes is None else integer("classes", classes, 1)
        self.group_size = self.output_size if group_size is None else integer("group_size", group_size, 1)
        self.part_size = self.output_size if part_size is None else integer("part_size", part_size, 1)
        if self.output_channels % self.classes:
            fail("classes", f"must divide output_channels={self.output_channels}", self.classes, "use 1, or a divisor")
        channels = 2 * self.classes * self.group_size**2
        self.conv_offset = OffsetConv2d(self.in_channels, channels, 1, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Set the offset branch to zero."""
        self.conv_offset.reset_parameters()

    def offset(self, features: Tensor, boxes: Boxes) -> Tensor:
        """Return the offsets (R, 2*classes, part_size, part_size), x before y for each class, in the operator's unit.

        `gamma` times the region's width and height is that unit.
        """
        return self._pool(self.conv_offset(features), boxes, self.part_size, 2 * self.classes)

    def forward(self, scores: Tensor, features: Tensor, boxes: Boxes) -> Tensor:
        """Return the pooled scores of each region, at the bins that the features decide."""
        return self._pool(scores, boxes, self.output_size, self.output_channels, self.offset(features, boxes))

    def _pool(self, maps: Tensor, boxes: Boxes, size: int, channels: int, offset: Tensor | None = None) -> Tensor:
        return deform_ps_roi_pool(
            maps,
            boxes,
            size,
            channels,
            offset,
            spatial_scale=self.spatial_scale,
            group_size=self.group_size,
            part_size=self.part_size,
            samples_per_bin=self.samples_per_bin,
            gamma=self.gamma,
        )

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script(type(self).__name__)

    def extra_repr(self) -> str:
        """Return the arguments, those after `spatial_scale` where they differ from the defaults."""
        parts = [f"{self.output_size}, {self.in_channels}, {self.output_channels}"]
        parts += [f"spatial_scale={self.spatial_scale:g}"]
        parts += [f"classes={self.classes}"] * (self.classes != self.output_channels)
        parts += [f"group_size={self.group_size}"] * (self.group_size != self.output_size)
        parts += [f"part_size={self.part_size}"] * (self.part_size != self.output_size)
        parts += [f"gamma={self.gamma}"] * (self.gamma != 0.1)
        return ", ".join(parts)
