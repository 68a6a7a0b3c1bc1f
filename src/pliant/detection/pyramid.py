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
    Trunk,
    is_stage_selector,
    pixel_statistics,
    prepared_trunk,
)
from pliant.nn import DeformConv2d
from pliant.surgery import convert


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
    name: str = "resnet50",
    *,
    deform: str | None = None,
    modulated: bool = True,
    offset_groups: int = 1,
    mask_scale: float = 2.0,
    weights: str | None = None,
    norm: str = "auto",
    frozen_stages: int | None = None,
    strides: Sequence[int] = (4, 8, 16, 32),
    out_channels: int = 256,
) -> PyramidBackbone:
    r"""Build a feature pyramid over the trunk `name`.

    Args:
        name: one of `backbone_names()`, or `timm:NAME`.
        deform: which convolutions become deformable. `c3-c5`, `c5` or `last3` choose in the trunk; any other text is a
            regular expression over the names of the whole backbone, e.g. `fpn\.layer_blocks` for the 3x3
            convolutions that end the pyramid. None converts nothing.
        modulated: DCNv2's modulation; False gives DCNv1.
        offset_groups: groups of channels with offsets of their own.
        mask_scale: factor of the modulation's sigmoid; 2 keeps the network's function at the start.
        weights: a checkpoint of the trunk (.pth, .pt or .safetensors), or `default` for those that torchvision
            or timm download, or None for random ones.
        norm: `frozen` batch statistics, `batch` for trained ones, `auto`: frozen where there are weights.
        frozen_stages: how many first stages are not trained; None: 2 (C1 and C2) where there are weights, else 0.
        strides: strides in input pixels of the maps that the pyramid is built on.
        out_channels: channels of each map of the pyramid.

    Returns:
        The backbone; its maps have the given strides and one more, max-pooled from the last.

    Raises:
        PliantError: an unknown name, stride or norm, or a checkpoint which does not fit.

    Example:
        >>> import torch
        >>> backbone = pyramid_backbone("resnet18", strides=(8, 16, 32), out_channels=64)
        >>> [tuple(m.shape) for m in backbone(torch.zeros(1, 3, 64, 96)).values()]
        [(1, 64, 8, 12), (1, 64, 4, 6), (1, 64, 2, 3), (1, 64, 1, 2)]

    References:
        Feature Pyramid Networks (arXiv 1612.03144), section 3.
    """
    built = prepared_trunk(
        name,
        deform=deform,
        modulated=modulated,
        offset_groups=offset_groups,
        mask_scale=mask_scale,
        weights=weights,
        norm=norm,
        frozen_stages=frozen_stages,
    )
    _check_strides(strides, built, name)
    channels = [built.channels[built.strides.index(stride)] for stride in strides]
    wanted = _deformable(built.network)
    backbone = PyramidBackbone(built.body(strides), channels, strides, out_channels)
    backbone.image_mean, backbone.image_std = pixel_statistics(built.network)
    if _deformable(backbone) < wanted:
        rule = f"must choose convolutions that the maps at strides {tuple(strides)} are made by"
        fail("deform", rule, repr(deform), "choose earlier stages, or add strides")
    if deform is not None and not is_stage_selector(deform):
        convert(backbone, deform, modulated=modulated, offset_groups=offset_groups, mask_scale=mask_scale)
    return backbone


def _deformable(network: nn.Module) -> int:
    return sum(isinstance(module, DeformConv2d) for module in network.modules())


def _check_strides(strides: Sequence[int], built: Trunk, name: str) -> None:
    unknown = [stride for stride in strides if stride not in built.strides]
    if unknown or list(strides) != sorted(set(strides)) or not strides:
        rule = f"must be rising strides of {name}'s stages {built.strides}"
        fail("strides", rule, tuple(strides), "use e.g. (4, 8, 16, 32)")
