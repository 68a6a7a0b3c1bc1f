# SPDX-License-Identifier: Apache-2.0
"""Whole classification networks by name: any of torchvision's, and any of timm's."""

from __future__ import annotations

import torchvision
from torch import nn

from pliant._check import fail, suggest
from pliant.backbones.prepare import prepared_trunk
from pliant.backbones.trunks import (
    OWN_NETWORKS,
    TORCHVISION_NAMES,
    backbone_names,
    freeze_batch_norm,
    timm_network,
    trunk,
)
from pliant.backbones.weights import load_trunk_weights


def classification_network(
    name: str, *, weights: str | None = None, norm: str = "batch", frozen_stages: int = 0
) -> nn.Module:
    """Build a classification network, its last layer included.

    Args:
        name: one of `backbone_names()`, the name of any other classification network of torchvision, or `timm:NAME`.
        weights: a checkpoint (.pth, .pt or .safetensors), or `default` for those that torchvision or timm download, or
            None for random ones.
        norm: `batch` for trained batch statistics, `frozen` for frozen ones.
        frozen_stages: how many first stages are not trained, C1 being the first; more than 0 needs a network that
            `trunk` knows the stages of.

    Raises:
        PliantError: an unknown name or norm, or a checkpoint which does not fit.

    Example:
        >>> classification_network("resnet18").fc
        Linear(in_features=512, out_features=1000, bias=True)
    """
    if norm not in ("batch", "frozen"):
        fail("norm", "must be 'batch' or 'frozen'", repr(norm), "use 'batch'")
    if frozen_stages:
        return prepared_trunk(name, weights=weights, norm=norm, frozen_stages=frozen_stages).network
    network = _network(name, pretrained=weights == "default")
    if weights not in (None, "default"):
        load_trunk_weights(network, str(weights))
    return freeze_batch_norm(network) if norm == "frozen" else network


def _network(name: str, *, pretrained: bool) -> nn.Module:
    if name.startswith("timm:"):
        return timm_network(name.removeprefix("timm:"), pretrained=pretrained)
    if name in OWN_NETWORKS:
        return trunk(name, pretrained=pretrained).network
    known = {*backbone_names(), *torchvision.models.list_models(module=torchvision.models)}
    if name not in known:
        fix = f"use resnet50 for instance, or timm:NAME.{suggest(name, known)}"
        fail("backbone", "must name a classification network of torchvision or timm", repr(name), fix)
    full = TORCHVISION_NAMES.get(name, name)
    network: nn.Module = torchvision.models.get_model(full, weights="DEFAULT" if pretrained else None)
    return network
