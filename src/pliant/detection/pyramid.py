# SPDX-License-Identifier: Apache-2.0
"""Feature pyramids over torchvision and timm trunks, with deformable convolutions where asked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from pliant._check import fail
from pliant.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    StagedNetwork,
    Trunk,
    as_trunk,
    build_trunk,
    pixel_statistics,
)
from pliant.nn import DeformConv2d


class PyramidBackbone(nn.Module):
    """A trunk and the feature pyramid over it: images (N, 3, H, W) to a dict of maps (N, out_channels, H/s, W/s).

    `strides` lists s for each map, the extra max-pooled one included; `image_mean` and `image_std` are those of the
    pixels that the trunk's weights were trained with. Parameter names are torchvision's (`body.*`, `fpn.*`), so that
    its detection checkpoints load.

    Args:
        body: images (N, 3, H, W) to an ordered dict of maps, the finest first.
        channels: of each of these maps.
        strides: input pixels per cell of each.
        out_channels: channels of each map of the pyramid.
    """

    image_mean: Colour = IMAGENET_MEAN
    image_std: Colour = IMAGENET_STD

    def __init__(self, body: nn.Module, channels: Sequence[int], strides: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(channels), out_channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = out_channels
        self.strides = (*strides, 2 * strides[-1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps, the finest first."""
        maps: dict[str, Tensor] = self.fpn(self.body(images))
        return maps


def pyramid_backbone(
    trunk: str | Trunk = "resnet50", *, strides: Sequence[int] = (4, 8, 16, 32), out_channels: int = 256
) -> PyramidBackbone:
    """Build a feature pyramid over `trunk`.

    Args:
        trunk: a `pliant.backbones.Trunk`, or the name of its network.
        strides: strides in input pixels of the maps that the pyramid is built on.
        out_channels: channels of each map of the pyramid.

    Returns:
        The backbone; its maps have the given strides and one more, max-pooled from the last.

    Raises:
        PliantError: an unknown name or stride, or a checkpoint which does not fit.

    Example:
        >>> import torch
        >>> backbone = pyramid_backbone("resnet18", strides=(8, 16, 32), out_channels=64)
        >>> [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 64, 96)).values()]
        [(1, 64, 8, 12), (1, 64, 4, 6), (1, 64, 2, 3), (1, 64, 1, 2)]

    References:
        Feature Pyramid Networks (arXiv 1612.03144), section 3.
    """
    trunk = as_trunk(trunk)
    built = build_trunk(trunk)
    _check_strides(strides, built, trunk.network)
    channels = [built.channels[built.strides.index(stride)] for stride in strides]
    wanted = _deformable(built.network)
    backbone = PyramidBackbone(built.body(strides), channels, strides, out_channels)
    backbone.image_mean, backbone.image_std = pixel_statistics(built.network)
    if _deformable(backbone) < wanted:
        rule = f"must choose convolutions that the maps at strides {tuple(strides)} are made by"
        fail("deform", rule, repr(trunk.deform), "choose earlier stages, or add strides")
    trunk.convert_by_name(backbone)
    return backbone


def _deformable(network: nn.Module) -> int:
    return sum(isinstance(module, DeformConv2d) for module in network.modules())


def _check_strides(strides: Sequence[int], built: StagedNetwork, name: str) -> None:
    unknown = [stride for stride in strides if stride not in built.strides]
    if unknown or list(strides) != sorted(set(strides)) or not strides:
        rule = f"must be rising strides of {name}'s stages {built.strides}"
        fail("strides", rule, tuple(strides), "use e.g. (4, 8, 16, 32)")
