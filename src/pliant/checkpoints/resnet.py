# SPDX-License-Identifier: Apache-2.0
"""What a ResNet's tensors say about it: which network it is, and which of its layers are deformable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pliant._check import fail
from pliant.backbones import IMAGENET_MEAN, IMAGENET_STD
from pliant.checkpoints.draft import Draft

# (blocks of the stages, channels of the first 3x3, channels of one of its groups) to pliant's name; in a basic block
# both convolutions are 3x3, so that their first one has 64 channels as well.
BOTTLENECKS: dict[tuple[tuple[int, ...], int, int], str] = {
    ((3, 4, 6, 3), 64, 64): "resnet50",
    ((3, 4, 23, 3), 64, 64): "resnet101",
    ((3, 4, 6, 3), 128, 4): "resnext50",
    ((3, 4, 23, 3), 256, 8): "resnext101",
    ((3, 4, 23, 3), 128, 4): "timm:resnext101_32x4d",
    ((3, 4, 23, 3), 256, 4): "timm:resnext101_64x4d",
}
BASIC: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
TAPS = 9
REWRITTEN = "rewritten for normalised RGB images"


def resnet_name(state: Mapping[str, Tensor], prefix: str) -> str:
    """Return pliant's name of the network whose tensors are called `prefix` + torchvision's names."""
    pattern = re.compile(re.escape(prefix) + r"layer(\d)\.(\d+)\.conv(\d)\.weight")
    found = {tuple(map(int, m.groups())): state[m[0]].shape for m in map(pattern.fullmatch, state) if m}
    blocks = tuple(1 + max((b for stage, b, _ in found if stage == s), default=-1) for s in (1, 2, 3, 4))
    name = None
    if (1, 0, 3) in found:
        width, group = found[1, 0, 2][:2]
        name = BOTTLENECKS.get((blocks, width, group))
    elif (1, 0, 2) in found:
        name = BASIC.get(blocks)
    if name is None:
        known = ", ".join([*BASIC.values(), *BOTTLENECKS.values()])
        got = f"a network whose stages have {blocks} blocks"
        fail("checkpoint", f"must have one of the backbones {known}", got, "give another checkpoint")
    return name


def trunk_prefix(backbone: str) -> str:
    """Return how the names of the backbone's own tensors begin in pliant's models."""
    return "backbone.body.network." if backbone.startswith("timm:") else "backbone.body."


def trunk_settings(backbone: str, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return the options of the frozen `backbone`, whose `tensors` have pliant's names after `prefix`."""
    return {"backbone": backbone, "norm": "frozen", "frozen_stages": 2, **deform_settings(tensors, prefix)}


def deform_settings(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return the options of the deformable convolutions among `tensors`, pliant's names after `prefix`.

    Raises:
        PliantError: offset branches of several kinds, or with a number of channels that no branch has.
    """
    pattern = re.compile(re.escape(prefix) + r"(layer(\d)\.\d+\.conv\d)\.conv_offset\.weight")
    found = [match for match in map(pattern.fullmatch, tensors) if match]
    if not found:
        return {}
    kinds = [set(_kinds(tensors[match[0]])) for match in found]
    common = set.intersection(*kinds)
    if not common:
        got = ", ".join(str(tuple(tensors[match[0]].shape)) for match in found[:3])
        rule = "must have offset branches of one kind, 18 (offsets) or 27 (and masks) channels a group"
        fail("checkpoint", rule, got, "give the checkpoint of one model")
    modulated, groups = max(common)
    layers = [match[1] for match in found]
    stages = sorted({int(match[2]) for match in found})
    all_of_them = [n for n in _three_by_three(tensors, prefix) if int(n[5]) in stages]
    in_a_row = stages == list(range(stages[0], stages[-1] + 1))
    where = f"c{stages[0] + 1}-c{stages[-1] + 1}" if len(stages) > 1 else f"c{stages[0] + 1}"
    if set(layers) != set(all_of_them) or not in_a_row:
        where = rf"({'|'.join(re.escape(name) for name in layers)})$"
    return {"deform": where, "modulated": modulated, "offset_groups": groups, "mask_scale": 1.0}


def _kinds(weight: Tensor) -> list[tuple[bool, int]]:
    """(modulated, offset groups) that an offset branch of this shape may have."""
    channels, inputs = weight.shape[:2]
    kinds = [(True, channels // (3 * TAPS)), (False, channels // (2 * TAPS))]
    return [(m, g) for m, g in kinds if g and channels == g * (3 if m else 2) * TAPS and inputs % g == 0]


def _three_by_three(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    pattern = re.compile(re.escape(prefix) + r"(layer\d\.\d+\.conv\d)\.weight")
    found = [match for match in map(pattern.fullmatch, tensors) if match]
    return [match[1] for match in found if tuple(tensors[match[0]].shape[-2:]) == (3, 3)]


def take_input(
    draft: Draft, own: str, mean: Sequence[float], std: Sequence[float] = (1.0, 1.0, 1.0), *, bgr: bool
) -> None:
    r"""Rewrite the first convolution for pliant's input, from images of 0..255 less `mean`, over `std`.

    The old input of a channel is :math:`z = a x + b` of the new one, with :math:`a = 255 s / std` and
    :math:`b = (255 m - mean) / std`, m and s being ImageNet's mean and deviation, by which pliant normalises. a goes
    into the weights, and the weights' sum over b into the mean of the batch norm after them. Where b is not 0 the
    outermost cells differ by a little, since both networks pad with zeros.

    Args:
        draft: with the tensors of the trunk moved already.
        own: how their names begin.
        mean: red, green and blue, whatever the order of the channels in the file.
        std: likewise.
        bgr: whether the file's network takes blue first.
    """
    weight = draft.tensors[f"{own}conv1.weight"].float()  # (64, 3, 7, 7)
    scale = weight.new_tensor([255 * s / d for s, d in zip(IMAGENET_STD, std, strict=True)])
    shift = weight.new_tensor([(255 * m - old) / d for m, old, d in zip(IMAGENET_MEAN, mean, std, strict=True)])
    weight = weight.flip(1) if bgr else weight
    draft.tensors[f"{own}conv1.weight"] = weight * scale[:, None, None]
    draft.tensors[f"{own}bn1.running_mean"] = draft.tensors[f"{own}bn1.running_mean"] - weight.sum((2, 3)) @ shift
    rewritten = (f"{own}conv1.weight", f"{own}bn1.running_mean")
    draft.entries = [replace(e, how=REWRITTEN) if e.target in rewritten else e for e in draft.entries]
    values = ", ".join(f"{value:g}" for value in mean)
    draft.notes.append(
        f"the first convolution was rewritten from {'BGR' if bgr else 'RGB'} pixels of 0..255 less ({values}), "
        "red first, to pliant's normalised RGB images"
    )
