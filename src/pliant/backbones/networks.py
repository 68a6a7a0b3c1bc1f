# SPDX-License-Identifier: Apache-2.0
"""Whole classification networks by name: any of torchvision's, and any of timm's."""

from __future__ import annotations

from dataclasses import replace

import torchvision
from torch import nn

from pliant._check import fail, suggest
from pliant.backbones.prepare import Trunk, as_trunk, build_trunk
from pliant.backbones.stages import backbone_names, freeze_batch_norm, named_network, timm_network
from pliant.backbones.weights import load_trunk_weights


def classification_network(trunk: str | Trunk) -> nn.Module:
    """Build a classification network, its last layer included.

    Args:
        trunk: what to build, or the name of its network, which may be that of any classification network of
            torchvision. `norm` is `batch` unless it is said to be `frozen`, and `frozen_stages` 0; more needs a network
            that `staged_network` knows the stages of.

    Raises:
        PliantError: an unknown name, or a checkpoint which does not fit.

    Example:
        >>> classification_network("resnet18").fc
        Linear(in_features=512, out_features=1000, bias=True)
    """
    trunk = as_trunk(trunk)
    if trunk.frozen_stages:
        norm = "batch" if trunk.norm == "auto" else trunk.norm
        network = build_trunk(replace(trunk, norm=norm, deform=None)).network
    else:
        network = _network(trunk.network, pretrained=trunk.weights == "default")
        if trunk.weights is not None and trunk.weights != "default":
            load_trunk_weights(network, trunk.weights)
        network = freeze_batch_norm(network) if trunk.norm == "frozen" else network
    if trunk.deform is not None:
        trunk.convert(network, trunk.deform)
    return network


def _network(name: str, *, pretrained: bool) -> nn.Module:
    if name.startswith("timm:"):
        return timm_network(name.removeprefix("timm:"), pretrained=pretrained)
    known = {*backbone_names(), *torchvision.models.list_models(module=torchvision.models)}
    if name not in known:
        fix = f"use resnet50 for instance, or timm:NAME.{suggest(name, known)}"
        fail("backbone", "must name a classification network of torchvision or timm", repr(name), fix)
    return named_network(name, pretrained=pretrained)
