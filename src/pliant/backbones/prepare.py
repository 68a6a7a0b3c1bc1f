# SPDX-License-Identifier: Apache-2.0
"""`Trunk`: what a system stands on, as one value; and how it is built, in stages or as a whole network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torchvision
from torch import nn

from pliant._check import fail, suggest
from pliant.backbones.dilation import dilate
from pliant.backbones.stages import (
    StagedNetwork,
    backbone_names,
    freeze_batch_norm,
    is_stage_selector,
    named_network,
    staged_network,
    timm_network,
)
from pliant.backbones.weights import load_trunk_weights
from pliant.surgery import Where, convert, plan

Norm = Literal["auto", "frozen", "batch"]


@dataclass(frozen=True)
class Trunk:
    r"""The network that a detector, segmenter or classifier stands on: its layers, its weights, and what is trained.

    Attributes:
        network: one of `backbone_names()`, or `timm:NAME`.
        deform: which convolutions become deformable. `c3-c5`, `c5` or `last3` choose in the network; any other text is
            a regular expression over the names of the whole backbone, and in DeepLab of the whole model, e.g.
            `fpn\.layer_blocks` for the 3x3 convolutions that end a pyramid. None: none.
        modulated: DCNv2's modulation; False gives DCNv1.
        offset_groups: groups of channels with offsets of their own.
        mask_scale: factor of the modulation's sigmoid; 2 keeps the network's function at the start.
        offset_limit: None, or so many input pixels that offsets stay within; see `pliant.nn.DeformConv2d`.
        weights: a checkpoint of the network (.pth, .pt or .safetensors), or `default` for those that torchvision or
            timm download, or None for random ones.
        norm: `frozen` batch statistics, `batch` for trained ones; `auto`: frozen where there are weights, and trained
            in a classifier.
        frozen_stages: how many first stages are not trained; None: 2 (C1 and C2) where there are weights, else 0, and 0
            in a classifier. Their batch statistics follow `norm`.

    Raises:
        PliantError: `norm` is none of the three.

    Example:
        >>> Trunk("resnet101", deform="c3-c5", modulated=False).deform
        'c3-c5'
    """

    network: str = "resnet50"
    deform: str | None = None
    modulated: bool = True
    offset_groups: int = 1
    mask_scale: float = 2.0
    offset_limit: float | None = None
    weights: str | None = None
    norm: Norm = "auto"
    frozen_stages: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            fail("norm", "must be 'auto', 'frozen' or 'batch'", repr(self.norm), "use 'auto'")

    def convert(self, model: nn.Module, where: Where) -> None:
        """Convert the convolutions `where` of `model`, in place, to the layers of this trunk."""
        convert(
            model,
            where,
            modulated=self.modulated,
            offset_groups=self.offset_groups,
            mask_scale=self.mask_scale,
            offset_limit=self.offset_limit,
        )

    def convert_by_name(self, model: nn.Module) -> None:
        """Convert in `model`, which stands on the built trunk, what `deform` chooses by names and not by stages."""
        if self.deform is not None and not is_stage_selector(self.deform):
            self.convert(model, self.deform)


def as_trunk(trunk: str | Trunk) -> Trunk:
    """Return a trunk that may be given by the name of its network alone.

    Example:
        >>> as_trunk("resnet18").network
        'resnet18'
    """
    return Trunk(trunk) if isinstance(trunk, str) else trunk


def build_trunk(trunk: str | Trunk, *, output_stride: int | None = None, dilation: int | None = None) -> StagedNetwork:
    """Build the network of `trunk`: weights read, parts frozen, the convolutions that are chosen by stages converted.

    What is chosen by names is converted by `Trunk.convert_by_name`, in the whole model.

    Args:
        trunk: what to build, or the name of its network.
        output_stride: the coarsest stride in input pixels, coarser stages being dilated instead (see `dilate`): 16 is
            the papers' conv5; None leaves the network's own strides.
        dilation: of the last stage instead of what that stride asks for, which is 2 at stride 16.

    Raises:
        PliantError: an unknown name, a checkpoint which does not fit, or a stride that the network cannot have.

    Example:
        >>> build_trunk(Trunk("resnet18", deform="c5")).strides
        (2, 4, 8, 16, 32)
    """
    trunk = as_trunk(trunk)
    given = trunk.weights is not None
    built = staged_network(trunk.network, pretrained=trunk.weights == "default")
    if trunk.weights is not None and trunk.weights != "default":
        load_trunk_weights(built.network, trunk.weights)
    if trunk.norm == "frozen" or (trunk.norm == "auto" and given):
        built.network = freeze_batch_norm(built.network)
    built.freeze(trunk.frozen_stages if trunk.frozen_stages is not None else (2 if given else 0))
    chosen: set[str] = set()
    if trunk.deform is not None and is_stage_selector(trunk.deform):
        # Chosen before dilation: stages without names of their own are known by their strides.
        planned = plan(built.network, trunk.deform, modulated=trunk.modulated, offset_groups=trunk.offset_groups)
        chosen = {row.name for row in planned.rows} | {row.name for row in planned.skipped}
    if output_stride is not None:
        built = dilate(built, output_stride, dilation)
    if chosen:
        trunk.convert(built.network, lambda name, _: name in chosen)
    return built


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
