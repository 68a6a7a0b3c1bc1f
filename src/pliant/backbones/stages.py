# SPDX-License-Identifier: Apache-2.0
"""Classification networks and their stages: where these end, and how feature maps are taken from them."""

from __future__ import annotations

import functools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from pliant._check import fail, require_package, suggest
from pliant._imagenet import IMAGENET_MEAN, IMAGENET_STD
from pliant.backbones.own_networks import AlignedInceptionResNet, original_resnet

Colour = tuple[float, ...]
TORCHVISION_NAMES = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3": "mobilenet_v3_large",
    "mobilenet_v3_small": "mobilenet_v3_small",
}

# Networks that no library builds in this form; their stages end where torchvision's ResNets' do.
OWN_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50-caffe": functools.partial(original_resnet, "resnet50"),
    "resnet101-caffe": functools.partial(original_resnet, "resnet101"),
    "resnet50-mxnet": functools.partial(original_resnet, "resnet50", padded_pool=False),
    "resnet101-mxnet": functools.partial(original_resnet, "resnet101", padded_pool=False),
    "aligned-inception-resnet": AlignedInceptionResNet,
}


@dataclass
class StagedNetwork:
    """A classification network and where its stages C1, C2, ... end.

    Attributes:
        network: the whole network, classifier included, so that checkpoints load under their own names.
        stage_ends: name of the last module of each stage, C1 (stride 2) first.
        channels: channels of each stage's output.
        strides: input pixels per cell of each stage's output; two stages share one where the last is dilated.
    """

    network: nn.Module
    stage_ends: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def freeze(self, stages: int) -> None:
        """Stop training of the stages C1 to C`stages`; of some networks, ConvNeXt for instance, C2 is the first.

        The stages are known by their strides, 2**`stages` at most, so this comes before any dilation.
        """
        most = int(math.log2(self.strides[-1]))
        if not 0 <= stages <= most:
            fail("frozen_stages", f"must be 0 to {most}", stages, "0 trains everything, 2 freezes C1, C2")
        ends = [end for end, stride in zip(self.stage_ends, self.strides, strict=True) if stride <= 2**stages]
        if not ends:
            return
        last = ends[-1]
        reached = False
        for name, module in self.network.named_modules():
            inside = name == last or name.startswith(last + ".")
            if reached and not inside:
                return
            reached = reached or inside
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def body(self, strides: Sequence[int]) -> nn.Module:
        """Return the module that maps images (N, 3, H, W) to an ordered dict of the maps at `strides`.

        Where several stages have a stride, it is the last of them that is meant.
        """
        return self.maps([max(n for n, s in enumerate(self.strides, 1) if s == stride) for stride in strides])

    def maps(self, stages: Sequence[int]) -> nn.Module:
        """Return the module that maps images (N, 3, H, W) to an ordered dict of the outputs of `stages`.

        `stages` are the papers' rising numbers: 1 is C1 (stride 2), 4 is C4, 5 is C5; the dict's keys are "0", "1", ...
        """
        levels = [stage - 1 for stage in stages]
        if hasattr(self.network, "forward_intermediates"):
            return _TimmBody(self.network, levels)
        ends = [self.stage_ends[level] for level in levels]
        parent = "features" if ends[0].startswith("features.") else ""
        children = self.network.get_submodule(parent)
        names = {end.removeprefix("features."): str(k) for k, end in enumerate(ends)}
        maps: nn.Module = IntermediateLayerGetter(children, return_layers=names)
        return maps


class _TimmBody(nn.Module):
    """The stages of a timm network, by timm's own `forward_intermediates`."""

    def __init__(self, network: nn.Module, levels: Sequence[int]) -> None:
        super().__init__()
        # What comes after the last map is never computed, so it must not hold parameters either.
        network.prune_intermediate_layers(levels, prune_norm=False, prune_head=True)  # type: ignore[operator]
        self.network = network
        self.levels = list(levels)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        run = self.network.forward_intermediates
        maps = run(images, indices=self.levels, stop_early=True, intermediates_only=True)  # type: ignore[operator]
        return OrderedDict((str(k), feature) for k, feature in enumerate(maps))


def backbone_names() -> tuple[str, ...]:
    """Return the backbones with names of their own; any convolutional timm network is `timm:NAME`.

    Example:
        >>> "resnet50" in backbone_names()
        True
    """
    return (*TORCHVISION_NAMES, *OWN_NETWORKS)


def staged_network(name: str, *, pretrained: bool = False) -> StagedNetwork:
    """Build the network called `name`, whose stages are known.

    Args:
        name: one of `backbone_names()`, or `timm:NAME`.
        pretrained: ask torchvision or timm for their own weights, which they download.

    Raises:
        PliantError: an unknown name, a network without stages, or weights asked for that nobody published.

    Example:
        >>> staged_network("mobilenet_v2").channels
        (16, 24, 32, 96, 1280)
    """
    if name.startswith("timm:"):
        return _staged_timm(name.removeprefix("timm:"), pretrained)
    known = backbone_names()
    if name not in known:
        fix = f"choose one of {', '.join(known)}, or timm:NAME.{suggest(name, known)}"
        fail("backbone", "must name a backbone", repr(name), fix)
    network = named_network(name, pretrained=pretrained)
    if name.startswith("mobilenet"):
        ends = _ends_by_stride(network)
    else:
        ends = ("relu", "layer1", "layer2", "layer3", "layer4")
    outputs = outputs_of(network, ends)
    return StagedNetwork(network, ends, tuple(c for c, _ in outputs), tuple(s for _, s in outputs))


def named_network(name: str, *, pretrained: bool) -> nn.Module:
    """Build the network `name`, which is known to be one of pliant's own or of torchvision's."""
    if name in OWN_NETWORKS:
        if pretrained:
            fix = "give a file, or leave it out"
            fail("weights", f"must be a checkpoint of {name}", "'default'", fix)
        return OWN_NETWORKS[name]()
    full = TORCHVISION_NAMES.get(name, name)
    network: nn.Module = torchvision.models.get_model(full, weights="DEFAULT" if pretrained else None)
    return network


def timm_network(name: str, *, pretrained: bool = False) -> nn.Module:
    """Build the timm model `name`."""
    timm = require_package("timm", "train", f"the backbone timm:{name}")
    if not timm.is_model(name):
        fix = f"list names with timm.list_models().{suggest(name, timm.list_models())}"
        fail("backbone", "must name a timm model", repr(name), fix)
    network: nn.Module = timm.create_model(name, pretrained=pretrained)
    return network


def _staged_timm(name: str, pretrained: bool) -> StagedNetwork:
    network: Any = timm_network(name, pretrained=pretrained)
    stages = network.feature_info if isinstance(network.feature_info, list) else network.feature_info.info
    if not hasattr(network, "forward_intermediates") or not all("reduction" in stage for stage in stages):
        fix = "choose a convolutional network such as timm:resnet50"
        fail("backbone", "must give feature maps at several strides", repr(name), fix)
    return StagedNetwork(
        network,
        tuple(stage["module"] for stage in stages),
        tuple(stage["num_chs"] for stage in stages),
        tuple(stage["reduction"] for stage in stages),
    )


def _ends_by_stride(network: nn.Module) -> tuple[str, ...]:
    """The last block of each stride in `network.features`: 2, 4, 8, 16, 32."""
    names = [f"features.{k}" for k, _ in network.get_submodule("features").named_children()]
    last = {stride: name for name, (_, stride) in zip(names, outputs_of(network, names), strict=True)}
    return tuple(last.values())


def outputs_of(network: nn.Module, names: Sequence[str]) -> list[tuple[int, int]]:
    """Return (channels, stride) of the outputs of the modules called `names`, seen on one black image."""
    seen: dict[str, tuple[int, int]] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            # The first call counts: torchvision's residual blocks use one ReLU several times.
            seen.setdefault(name, (output.shape[1], 64 // output.shape[2]))

        return network.get_submodule(name).register_forward_hook(hook)

    handles = [watch(name) for name in names]
    mode = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    network.train(mode)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


def freeze_batch_norm(network: nn.Module) -> nn.Module:
    """Return `network` with each batch norm replaced by a frozen one of the same statistics, for small batches.

    Args:
        network: of torchvision or timm; changed in place where it is not itself a batch norm.

    Example:
        >>> freeze_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))[1]
        FrozenBatchNorm2d(4, eps=1e-05)
    """
    if hasattr(network, "forward_intermediates"):
        timm = require_package("timm", "train", "a timm backbone")
        frozen: nn.Module = timm.layers.freeze_batch_norm_2d(network)
        return frozen
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(module.num_features, eps=module.eps)
            norm.load_state_dict({k: v for k, v in module.state_dict().items() if k != "num_batches_tracked"})
            network.set_submodule(name, norm)
    return network


def is_stage_selector(deform: str) -> bool:
    """Return whether `deform` chooses stages (`c3-c5`, `c5`, `last3`), not names.

    Example:
        >>> is_stage_selector("c3-c5"), is_stage_selector("layer4.*conv2")
        (True, False)
    """
    return re.fullmatch(r"c\d(-c\d)?|last\d+", deform) is not None


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
