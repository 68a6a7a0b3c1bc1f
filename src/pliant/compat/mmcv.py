# SPDX-License-Identifier: Apache-2.0
"""mmcv's deformable layers and functions, with its names, argument orders and state dicts, run on pliant's operators.

`im2col_step` is taken and ignored: any batch size runs, and memory does not depend on it. What differs: at a position
of exactly -1 mmcv's offset gets the gradient 0, pliant's the right-hand derivative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pliant import nn as layers
from pliant import ops
from pliant._check import fail
from pliant._geometry import pair

__all__ = [
    "DeformConv2d",
    "DeformConv2dPack",
    "DeformRoIPool",
    "DeformRoIPoolPack",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
    "ModulatedDeformRoIPoolPack",
    "deform_conv2d",
    "deform_roi_pool",
    "modulated_deform_conv2d",
    "register",
]

Size = int | Sequence[int]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """Return DCNv1's convolution; arguments as `mmcv.ops.deform_conv2d`, `bias` must be False there and here.

    Example:
        >>> import torch
        >>> deform_conv2d(torch.rand(1, 4, 5, 6), torch.zeros(1, 18, 5, 6), torch.rand(2, 4, 3, 3), padding=1).shape
        torch.Size([1, 2, 5, 6])
    """
    _check_no_bias(bias)
    _check_groups(input, offset, weight, groups, deform_groups)
    return ops.deform_conv2d(input, offset, weight, None, stride, padding, dilation)


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Return DCNv2's convolution; arguments as `mmcv.ops.modulated_deform_conv2d`.

    Example:
        >>> import torch
        >>> x, offset, mask = torch.rand(1, 4, 5, 6), torch.zeros(1, 18, 5, 6), torch.ones(1, 9, 5, 6)
        >>> modulated_deform_conv2d(x, offset, mask, torch.rand(2, 4, 3, 3), padding=1).shape
        torch.Size([1, 2, 5, 6])
    """
    _check_groups(input, offset, weight, groups, deform_groups)
    return ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: Size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Return deformable RoI pooling; arguments as `mmcv.ops.deform_roi_pool`, whose empty offset is None too.

    Example:
        >>> import torch
        >>> rois = torch.tensor([[0, 1.0, 1.0, 8.0, 6.0]])
        >>> deform_roi_pool(torch.rand(1, 4, 8, 9), rois, None, 2).shape
        torch.Size([1, 4, 2, 2])
    """
    given = None if offset is None or offset.numel() == 0 else offset
    return ops.deform_roi_pool(input, rois, output_size, given, None, spatial_scale, sampling_ratio, gamma)


class _Given(nn.Module):
    """What the layers share that are given their offsets."""

    def __init__(
        self, channels: tuple[int, int], sizes: tuple[Size, Size, Size, Size], groups: tuple[int, int], *, bias: bool
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = channels
        self.groups, self.deform_groups = groups
        names = ("kernel_size", "stride", "padding", "dilation")
        self.kernel_size, self.stride, self.padding, self.dilation = (
            pair(name, size, minimum=int(name != "padding")) for name, size in zip(names, sizes, strict=True)
        )
        self.weight = nn.Parameter(torch.empty(channels[1], channels[0] // groups[0], *self.kernel_size))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels[1])) if bias else None


class DeformConv2d(_Given):
    """mmcv's `DeformConv2d`: DCNv1, given its offsets with each call.

    Example:
        >>> import torch
        >>> DeformConv2d(4, 2, 3, padding=1)(torch.rand(1, 4, 5, 6), torch.zeros(1, 18, 5, 6)).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
    ) -> None:
        _check_no_bias(bias)
        sizes = (kernel_size, stride, padding, dilation)
        super().__init__((in_channels, out_channels), sizes, (groups, deform_groups), bias=False)
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Return the convolution of `x` at `offset` (N, deform_groups*2*K, Ho, Wo)."""
        where = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return deform_conv2d(x, offset, self.weight, *where)


class ModulatedDeformConv2d(_Given):
    """mmcv's `ModulatedDeformConv2d`: DCNv2, given its offsets and masks with each call.

    Example:
        >>> import torch
        >>> x, offset, mask = torch.rand(1, 4, 5, 6), torch.zeros(1, 18, 5, 6), torch.ones(1, 9, 5, 6)
        >>> ModulatedDeformConv2d(4, 2, 3, padding=1)(x, offset, mask).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool | str = True,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation)
        super().__init__((in_channels, out_channels), sizes, (groups, deform_groups), bias=bool(bias))
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Return the convolution of `x` at `offset` (N, deform_groups*2*K, Ho, Wo), weighed by `mask`."""
        where = (self.stride, self.padding, self.dilation, self.groups, self.deform_groups)
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *where)


class _Pack(layers.DeformConv2d):
    """pliant's layer, whose parameters have mmcv's names."""

    @property
    def deform_groups(self) -> int:
        """What mmcv calls the offset groups."""
        return self.offset_groups

    def init_offset(self) -> None:
        """Set the offset branch to zero."""
        self.conv_offset.reset_parameters()


class DeformConv2dPack(_Pack):
    """mmcv's `DeformConv2dPack` ("DCN" in configs): DCNv1 with an offset branch of its own.

    Example:
        >>> import torch
        >>> DeformConv2dPack(4, 2, 3, padding=1, deform_groups=2)(torch.rand(1, 4, 5, 6)).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
    ) -> None:
        _check_no_bias(bias)
        sizes = (kernel_size, stride, padding, dilation)
        options = {"offset_groups": deform_groups, "modulated": False}
        super().__init__(in_channels, out_channels, *sizes, groups, False, **options)  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")


class ModulatedDeformConv2dPack(_Pack):
    """mmcv's `ModulatedDeformConv2dPack` ("DCNv2" in configs): DCNv2 with an offset branch of its own.

    Example:
        >>> import torch
        >>> ModulatedDeformConv2dPack(4, 2, 3, padding=1)(torch.rand(1, 4, 5, 6)).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool | str = True,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, *sizes, groups, bool(bias), offset_groups=deform_groups)
        bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class DeformRoIPool(nn.Module):
    """mmcv's `DeformRoIPool`: given its offsets, or none, with each call.

    Example:
        >>> import torch
        >>> DeformRoIPool(2)(torch.rand(1, 4, 8, 9), torch.tensor([[0, 1.0, 1.0, 8.0, 6.0]])).shape
        torch.Size([1, 4, 2, 2])
    """

    def __init__(
        self, output_size: Size, spatial_scale: float = 1.0, sampling_ratio: int = 0, gamma: float = 0.1
    ) -> None:
        super().__init__()
        self.output_size = pair("output_size", output_size, minimum=1)
        self.spatial_scale, self.sampling_ratio, self.gamma = float(spatial_scale), int(sampling_ratio), float(gamma)

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return the pooled regions (R, C, Ph, Pw)."""
        how = (self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma)
        return deform_roi_pool(input, rois, offset, *how)


class DeformRoIPoolPack(layers.DeformRoIPool):
    """mmcv's `DeformRoIPoolPack`: DCNv1's pooling with layers of its own that predict the offsets.

    Example:
        >>> import torch
        >>> DeformRoIPoolPack(2, 4)(torch.rand(1, 4, 8, 9), torch.tensor([[0, 1.0, 1.0, 8.0, 6.0]])).shape
        torch.Size([1, 4, 2, 2])
    """

    _modulated = False

    def __init__(
        self,
        output_size: Size,
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        how = (spatial_scale, sampling_ratio, gamma)
        options = {"modulated": self._modulated, "hidden_channels": deform_fc_channels}
        super().__init__(output_size, output_channels, *how, branch="mmcv", **options)  # type: ignore[arg-type]

    @property
    def output_channels(self) -> int:
        """What mmcv calls the channels."""
        return self.in_channels


class ModulatedDeformRoIPoolPack(DeformRoIPoolPack):
    """mmcv's `ModulatedDeformRoIPoolPack`: DCNv2's pooling with layers of its own.

    Example:
        >>> import torch
        >>> ModulatedDeformRoIPoolPack(2, 4)(torch.rand(1, 4, 8, 9), torch.tensor([[0, 1.0, 1.0, 8.0, 6.0]])).shape
        torch.Size([1, 4, 2, 2])
    """

    _modulated = True


NAMES_IN_CONFIGS: Mapping[str, type[nn.Module]] = {
    "DeformConv": DeformConv2d,
    "DCN": DeformConv2dPack,
    "ModulatedDeformConv": ModulatedDeformConv2d,
    "DCNv2": ModulatedDeformConv2dPack,
}


class Registry(Protocol):
    """What `register` needs of mmengine's registries."""

    def register_module(self, *, name: str, force: bool, module: type[nn.Module]) -> object:
        """Take `module` under `name`."""


def register(registry: Registry) -> None:
    """Let configs that say `type="DCN"` or `type="DCNv2"` build pliant's layers.

    Args:
        registry: `mmengine.registry.MODELS`, in programs built on mmengine.

    Example:
        >>> class Models(dict):
        ...     def register_module(self, *, name, force, module):
        ...         self[name] = module
        >>> models = Models()
        >>> register(models)
        >>> models["DCNv2"].__name__
        'ModulatedDeformConv2dPack'
    """
    for name, module in NAMES_IN_CONFIGS.items():
        registry.register_module(name=name, force=True, module=module)


def _check_no_bias(bias: bool) -> None:
    if bias:
        fail("bias", "must be False for DCNv1, as in mmcv", bias, "use the modulated one, or pliant.nn.DeformConv2d")


def _check_groups(input: Tensor, offset: Tensor, weight: Tensor, groups: int, deform_groups: int) -> None:
    """Refuse groups that the shapes do not have, since the shapes decide."""
    taps = weight.shape[2] * weight.shape[3]
    for name, given, found in (
        ("groups", groups, input.shape[1] // weight.shape[1]),
        ("deform_groups", deform_groups, offset.shape[1] // (2 * taps)),
    ):
        if given != found:
            fail(name, f"must be {found}, as the shapes of input, offset and weight say", given, f"pass {found}")
