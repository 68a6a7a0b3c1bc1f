# SPDX-License-Identifier: Apache-2.0
"""Backbones and detectors: strides, conversions, weights, frozen parts, and the errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from helpers.detectors import build
from pliant._check import PliantError
from pliant.backbones import Trunk, backbone_names
from pliant.detection import (
    class_aware_rpn,
    dilated_backbone,
    faster_rcnn,
    faster_rcnn_dc5,
    pyramid_backbone,
    rfcn,
)
from pliant.nn import DeformConv2d

IMAGES = torch.rand(1, 3, 64, 96)


def _deformable(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]


@pytest.mark.parametrize(
    "name", [*backbone_names(), "timm:resnet26", "timm:mobilenetv3_small_100", "timm:convnext_atto"]
)
def test_every_backbone_gives_maps_at_its_strides(name: str) -> None:
    backbone = pyramid_backbone(name, out_channels=8, strides=(8, 16)).eval()
    with torch.no_grad():
        maps = backbone(IMAGES)
    assert [tuple(m.shape) for m in maps.values()] == [(1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)]
    assert backbone.strides == (8, 16, 32)


@pytest.mark.parametrize(
    ("name", "deform", "count"),
    [
        ("resnet50", "c3-c5", 13),
        ("resnet18", "c5", 4),
        ("resnext50", "last3", 3),
        ("timm:resnet26", "c4-c5", 4),
        ("resnet18", r"fpn\.layer_blocks", 4),
        ("mobilenet_v2", r"fpn\.layer_blocks\.[01]", 2),
    ],
)
def test_conversion_keeps_the_maps_at_the_start(name: str, deform: str, count: int) -> None:
    torch.manual_seed(3)
    plain = pyramid_backbone(name, out_channels=8).eval()
    torch.manual_seed(3)
    converted = pyramid_backbone(Trunk(name, deform=deform), out_channels=8).eval()
    assert len(_deformable(converted)) == count
    with torch.no_grad():
        for ours, theirs in zip(converted(IMAGES).values(), plain(IMAGES).values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_names_are_torchvisions_so_its_detection_checkpoints_load() -> None:
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    assert set(faster_rcnn(91, "resnet50").state_dict()) == set(theirs.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_weights_are_loaded_frozen_and_kept_by_conversion(tmp_path: Path, suffix: str) -> None:
    network = torchvision.models.resnet18(weights=None)
    network.bn1.running_mean.fill_(0.25)
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    else:
        from safetensors.torch import save_file

        save_file(network.state_dict(), path)
    backbone = pyramid_backbone(Trunk("resnet18", weights=str(path), deform="c5"))
    assert torch.equal(backbone.body.layer4[1].conv2.weight, network.layer4[1].conv2.weight)  # type: ignore[index, union-attr]
    assert isinstance(backbone.body.bn1, FrozenBatchNorm2d)
    assert backbone.body.bn1.running_mean.unique().tolist() == [0.25]
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_stages_freeze_in_order_on_mobilenet_too() -> None:
    backbone = pyramid_backbone(Trunk("mobilenet_v2", frozen_stages=3))
    frozen = {
        int(n.split(".")[1]) for n, p in backbone.named_parameters() if n.startswith("body") and not p.requires_grad
    }
    assert frozen == set(range(7))  # features 0..6 are the strides 2, 4 and 8


def test_a_network_that_begins_with_c2_freezes_c2() -> None:
    backbone = pyramid_backbone(Trunk("timm:convnext_atto", frozen_stages=2), strides=(8, 16), out_channels=8)
    frozen = {n.split("network.")[1][:8] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem.0.w", "stem.0.b", "stem.1.w", "stem.1.b", "stages.0"}
    whole = pyramid_backbone(Trunk("timm:convnext_atto", frozen_stages=1), strides=(8, 16), out_channels=8)
    assert all(p.requires_grad for p in whole.parameters())


def test_pixels_are_normalised_as_the_backbones_weights_ask() -> None:
    options: dict[str, Any] = {"strides": (8, 16), "fpn_channels": 8, "head_channels": 8}
    model = build(faster_rcnn, 2, "timm:tf_mobilenetv3_small_minimal_100", **options)
    assert (model.transform.image_mean, model.transform.image_std) == ([0.5] * 3, [0.5] * 3)
    assert build(faster_rcnn, 2, **options).transform.image_mean == [0.485, 0.456, 0.406]
    dilated = dilated_backbone("resnet18", reduction_channels=8)
    dilated.image_mean, dilated.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    for detector in (faster_rcnn_dc5, rfcn, class_aware_rpn):
        transform = detector(2, dilated).transform
        assert (transform.image_mean, transform.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_training_reaches_the_offset_branch() -> None:
    model = build(faster_rcnn, 3, deform="c5", min_size=64, fpn_channels=16, head_channels=16).train()
    target = {"boxes": torch.tensor([[5.0, 6.0, 60.0, 50.0]]), "labels": torch.tensor([2])}
    losses = model([IMAGES[0]], [target])
    torch.stack(list(losses.values())).sum().backward()
    gradients = [model.backbone.get_submodule(n).conv_offset.weight.grad for n in _deformable(model.backbone)]
    assert len(gradients) == 4
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet5"}, "backbone: must name a backbone; got 'resnet5'; .* Did you mean 'resnet50'"),
        ({"backbone": "timm:resnet5x"}, "backbone: must name a timm model; got 'resnet5x'"),
        ({"strides": (3,)}, r"strides: must be rising strides of resnet18's stages \(2, 4, 8, 16, 32\); got \(3,\)"),
        ({"strides": (16, 8)}, "strides: must be rising"),
        ({"weights": "/none.pth"}, "weights: must be a file; got /none.pth"),
        ({"anchor_sizes": (8, 16)}, r"anchor_sizes: must give one size for each of the 5 maps .*; got 2 sizes"),
        ({"norm": "group"}, "norm: must be 'auto', 'frozen' or 'batch'; got 'group'"),
        (
            {"deform": "c5", "strides": (8, 16)},
            "deform: must choose convolutions that the maps at strides .*; got 'c5'",
        ),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError, match=message):
        build(faster_rcnn, **{"num_classes": 2, "backbone": "resnet18", **options})


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "m.pth")
    with pytest.raises(PliantError, match=r"weights: must hold every weight of the backbone; 100 of 122 are absent"):
        pyramid_backbone(Trunk("resnet18", weights=str(tmp_path / "m.pth")))
