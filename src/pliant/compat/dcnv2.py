# SPDX-License-Identifier: Apache-2.0
"""The layers of CharlesShang's DCNv2 and of its successors, with their names and state dicts, on pliant's operators.

The offset branch of `DCN` is a convolution without dilation, as in that library, even where the layer has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pliant import ops
from pliant._check import fail
from pliant._geometry import pair
from pliant.nn.offset_branch import OffsetConv2d, OffsetLinear

__all__ = ["DCN", "DCNPooling", "DCNv2", "DCNv2Pooling"]

Size = int | Sequence[int]


class DCNv2(nn.Module):
    """DCNv2's convolution, given its offsets and masks with each call.

    Example:
        >>> import torch
        >>> x, offset, mask = torch.rand(1, 4, 5, 6), torch.zeros(1, 18, 5, 6), torch.ones(1, 9, 5, 6)
        >>> DCNv2(4, 2, 3, stride=1, padding=1)(x, offset, mask).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair("kernel_size", kernel_size, minimum=1)
        self.stride = pair("stride", stride, minimum=1)
        self.padding = pair("padding", padding, minimum=0)
        self.dilation = pair("dilation", dilation, minimum=1)
        self.deformable_groups = deformable_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return the convolution of `input` at `offset`, weighed by `mask`."""
        geometry = (self.stride, self.padding, self.dilation)
        return ops.deform_conv2d(input, offset, self.weight, self.bias, *geometry, mask)


class DCN(DCNv2):
    """DCNv2's convolution with an offset branch of its own, `conv_offset_mask`.

    Example:
        >>> import torch
        >>> DCN(4, 2, 3, stride=1, padding=1, deformable_groups=2)(torch.rand(1, 4, 5, 6)).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, deformable_groups)
        branch = deformable_groups * 3 * math.prod(self.kernel_size)
        self.conv_offset_mask = OffsetConv2d(in_channels, branch, self.kernel_size, self.stride, self.padding)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # as that library's, of another signature
        """Return the convolution of `input` where `conv_offset_mask` sends it."""
        samples = self.conv_offset_mask.out_channels // 3
        offset, mask = self.conv_offset_mask(input).split([2 * samples, samples], dim=1)
        return super().forward(input, offset, mask.sigmoid())


class DCNv2Pooling(nn.Module):
    """Deformable position-sensitive RoI pooling, given its offsets with each call.

    Example:
        >>> import torch
        >>> pool = DCNv2Pooling(1 / 4, 2, 3, no_trans=True)
        >>> pool(torch.rand(1, 3, 8, 9), torch.tensor([[0, 1.0, 1.0, 20.0, 16.0]]), torch.empty(0)).shape
        torch.Size([1, 3, 2, 2])
    """

    def __init__(
        self,
        spatial_scale: float,
        pooled_size: int,
        output_dim: int,
        no_trans: bool,
        group_size: int = 1,
        part_size: int | None = None,
        sample_per_part: int = 4,
        trans_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.spatial_scale, self.pooled_size, self.output_dim = spatial_scale, pooled_size, output_dim
        self.no_trans, self.group_size, self.trans_std = no_trans, group_size, trans_std
        self.part_size = pooled_size if part_size is None else part_size
        self.sample_per_part = sample_per_part

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor) -> Tensor:
        """Return the pooled regions (R, output_dim, pooled_size, pooled_size); `no_trans` ignores `offset`."""
        return self._pool(input, rois, None if self.no_trans else offset)

    def _pool(self, input: Tensor, rois: Tensor, offset: Tensor | None) -> Tensor:
        sizes = (self.group_size, self.part_size, self.sample_per_part, self.trans_std)
        boxes = (rois, self.pooled_size, self.output_dim, offset, None, self.spatial_scale)
        return ops.deform_ps_roi_pool(input, *boxes, *sizes)


class DCNPooling(DCNv2Pooling):
    """Deformable position-sensitive RoI pooling with layers of its own, `offset_mask_fc`, for offsets and masks.

    Example:
        >>> import torch
        >>> pool = DCNPooling(1 / 4, 2, 3, no_trans=False, trans_std=0.1, deform_fc_dim=16)
        >>> pool(torch.rand(1, 3, 8, 9), torch.tensor([[0, 1.0, 1.0, 20.0, 16.0]])).shape
        torch.Size([1, 3, 2, 2])
    """

    def __init__(
        self,
        spatial_scale: float,
        pooled_size: int,
        output_dim: int,
        no_trans: bool,
        group_size: int = 1,
        part_size: int | None = None,
        sample_per_part: int = 4,
        trans_std: float = 0.0,
        deform_fc_dim: int = 1024,
    ) -> None:
        sizes = (group_size, part_size, sample_per_part, trans_std)
        super().__init__(spatial_scale, pooled_size, output_dim, no_trans, *sizes)
        if no_trans:
            return
        if self.part_size != pooled_size:
            fail(
                "part_size", f"must be pooled_size={pooled_size}, which the branch predicts", part_size, "leave it out"
            )
        bins = pooled_size * pooled_size
        self.offset_mask_fc = nn.Sequential(
            nn.Linear(bins * output_dim, deform_fc_dim),
            nn.ReLU(inplace=True),
            nn.Linear(deform_fc_dim, deform_fc_dim),
            nn.ReLU(inplace=True),
            OffsetLinear(deform_fc_dim, bins * 3),
        )

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """Return the pooled regions (R, output_dim, pooled_size, pooled_size)."""
        pooled = self._pool(input, rois, None)
        if self.no_trans:
            return pooled
        size = self.pooled_size
        offset, mask = self.offset_mask_fc(pooled.flatten(1)).view(-1, 3, size, size).split([2, 1], dim=1)
        moved: Tensor = self._pool(input, rois, offset) * mask.sigmoid()
        return moved
