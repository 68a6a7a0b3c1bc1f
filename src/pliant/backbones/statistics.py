# SPDX-License-Identifier: Apache-2.0
"""The mean and the standard deviation of pixels that a network's weights were trained with."""

from __future__ import annotations

from torch import nn

from pliant._imagenet import IMAGENET_MEAN, IMAGENET_STD

Colour = tuple[float, ...]


def pixel_statistics(network: nn.Module) -> tuple[Colour, Colour]:
    """Return (mean, standard deviation) of R, G, B in 0..1: what timm says of its network, else ImageNet's.

    Args:
        network: any module.

    Example:
        >>> pixel_statistics(nn.Identity())[0]
        (0.485, 0.456, 0.406)
    """
    said = getattr(network, "default_cfg", None) or {}
    return tuple(said.get("mean", IMAGENET_MEAN)), tuple(said.get("std", IMAGENET_STD))
