# SPDX-License-Identifier: Apache-2.0
"""Every trainable parameter is in one group, once, at its learning rate and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.networks import Twins
from pliant._check import PliantError
from pliant.nn import DeformPSRoIPool, DeformRoIPool
from pliant.surgery import convert, param_groups


def test_param_groups_find_every_parameter_once() -> None:
    model = Twins()
    model.norm = nn.GroupNorm(2, 4)
    model.stem.requires_grad_(False)
    convert(model, ".")
    groups = param_groups(model, lr=0.02, weight_decay=1e-4)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("base", 0.02, 1e-4),
        ("offset", pytest.approx(0.002), 1e-4),
    ]
    base, offset = ([id(p) for p in group["params"]] for group in groups)
    # `left` and `tied` share one weight; the stem is frozen, its new offset branch is not
    deep = model.nested["deep"][1]
    assert base == [id(p) for p in (model.left.weight, deep.weight, deep.bias, *model.norm.parameters())]
    layers = (model.stem, model.left, model.tied, deep)
    assert sorted(offset) == sorted(id(p) for layer in layers for p in layer.conv_offset.parameters())
    torch.optim.SGD(groups, momentum=0.9)


def test_param_groups_can_decay_normalization_differently() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
    groups = param_groups(model, 0.1, 0.01, norm_weight_decay=0.0)
    assert [(g["name"], len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == [
        ("base", 4, 0.1, 0.01),
        ("norm", 4, 0.1, 0.0),
    ]
    convert(model, "0")
    scaled = param_groups(model, 0.1, 0.01, 1.0, norm_weight_decay=0.0)[-1]
    assert (scaled["name"], scaled["lr"]) == ("offset", 0.1)


def test_param_groups_refuse_a_frozen_model_and_a_negative_scale() -> None:
    model = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match=r"offset_lr_scale: must not be negative; got -1; use 0\.1 \(DCNv2\)"):
        param_groups(model, 0.1, 0.0, -1)
    with pytest.raises(
        PliantError, match="model: must have a parameter that requires a gradient; got Conv2d; unfreeze"
    ):
        param_groups(model.requires_grad_(False), 0.1, 0.0)


class _Pools(nn.Module):
    """A layer with an offset branch of each kind, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.first = DeformRoIPool(2, 4, modulated=False)
        self.second = DeformRoIPool(2, 4, hidden_channels=5)
        self.mmcv = DeformRoIPool(2, 4, modulated=False, branch="mmcv", hidden_channels=5)
        self.sensitive = DeformPSRoIPool(2, 4, 3)


def test_branches_of_roi_pooling_learn_at_the_papers_rates_or_at_a_given_one() -> None:
    """1/100 for v1's one layer, the full rate for v2's three; whatever was said for all of them otherwise."""
    model = convert(_Pools(), "conv")
    groups = param_groups(model, lr=0.02, weight_decay=1e-4)
    assert [(g["name"], pytest.approx(g["lr"]), g["weight_decay"]) for g in groups] == [
        ("base", 0.02, 1e-4),
        ("offset", 0.002, 1e-4),
        ("roi_offset", 0.0002, 1e-4),
        ("roi_offset", 0.02, 1e-4),
    ]
    wanted = [
        [model.conv.weight, model.conv.bias],
        [*model.conv.conv_offset.parameters()],
        [*model.first.parameters()],
        [*model.second.parameters(), *model.mmcv.parameters(), *model.sensitive.parameters()],
    ]
    assert [list(map(id, g["params"])) for g in groups] == [list(map(id, some)) for some in wanted]
    given = param_groups(model, 0.02, 1e-4, roi_offset_lr_scale=0.5)
    assert [(g["name"], len(g["params"]), g["lr"]) for g in given][2:] == [("roi_offset", 2 + 6 + 6 + 2, 0.01)]
    with pytest.raises(ValueError, match=r"roi_offset_lr_scale: must not be negative; got -2; use 0\.01 \(DCNv1\)"):
        param_groups(model, 0.1, 0.0, roi_offset_lr_scale=-2)


def test_a_module_may_ask_for_a_rate_of_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
    model[1].lr_scale = 3.0
    model[1][2].lr_scale = 0.5
    convert(model, r"1\.0")
    groups = param_groups(model, 0.1, 0.01, norm_weight_decay=0.0)
    assert [(g["name"], len(g["params"]), pytest.approx(g["lr"])) for g in groups] == [
        ("base", 2, 0.05),
        ("base", 2, 0.1),
        ("base", 2, 0.3),
        ("norm", 2, 0.3),
        ("offset", 2, 0.01),
    ]
