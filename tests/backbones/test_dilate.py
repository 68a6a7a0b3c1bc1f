# SPDX-License-Identifier: Apache-2.0
"""Trunks at a finer stride: every convolution of the last stages dilated, the first block's too, weights kept."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from pliant._check import PliantError
from pliant.backbones import StagedNetwork, Trunk, build_trunk, dilate, staged_network
from pliant.nn import DeformConv2d

IMAGES = torch.rand(1, 3, 96, 64)


def spatial(network: nn.Module, prefix: str) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Stride, padding and dilation of each convolution larger than 1x1 whose name begins so."""
    return {
        name: (tuple(m.stride), tuple(m.padding), tuple(m.dilation))
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv2d | DeformConv2d) and max(m.kernel_size) > 1 and name.startswith(prefix)
    }


def shapes(built: StagedNetwork, stages: tuple[int, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(m.shape[2:]) for m in built.maps(stages).eval()(IMAGES).values()]


@pytest.mark.parametrize(
    ("name", "prefix", "count"),
    [
        ("resnet50", "layer4", 3),
        ("resnext50", "layer4", 3),
        ("resnet18", "layer4", 4),
        ("mobilenet_v2", "features.1", 4),  # 14 to 17; the stages before are features.10 to 13 and below
        ("timm:resnet26", "layer4", 2),
    ],
)
def test_every_convolution_of_conv5_is_dilated(name: str, prefix: str, count: int) -> None:
    built = build_trunk(name, output_stride=16)
    assert built.strides == (2, 4, 8, 16, 16)
    before = spatial(staged_network(name).network, prefix)
    after = {key: value for key, value in spatial(built.network, prefix).items() if value != before[key]}
    assert len(after) == count
    assert set(after.values()) == {((1, 1), (2, 2), (2, 2))}
    assert shapes(built, (4, 5)) == [(6, 4), (6, 4)]


def test_stride_8_dilates_conv4_by_2_and_conv5_by_4() -> None:
    built = build_trunk("resnet50", output_stride=8)
    assert built.strides == (2, 4, 8, 8, 8)
    assert set(spatial(built.network, "layer3").values()) == {((1, 1), (2, 2), (2, 2))}
    assert set(spatial(built.network, "layer4").values()) == {((1, 1), (4, 4), (4, 4))}
    assert shapes(built, (3, 4, 5)) == [(12, 8)] * 3


def test_torchvision_differs_in_the_first_block_alone() -> None:
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True])
    ours = dilate(staged_network("resnet50"), 16).network
    a, b = spatial(theirs, "layer"), spatial(ours, "layer")
    assert {name for name in a if a[name] != b[name]} == {"layer4.0.conv2"}
    theirs.layer4[0].conv2.dilation = theirs.layer4[0].conv2.padding = (2, 2)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours.eval()(IMAGES), theirs.eval()(IMAGES))


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "timm:resnet26"])
def test_deformable_layers_are_dilated_with_their_offset_branch(name: str) -> None:
    torch.manual_seed(1)
    plain = build_trunk(name, output_stride=16)
    torch.manual_seed(1)
    built = build_trunk(Trunk(name, deform="c5"), output_stride=16)
    layers = [m for m in built.network.modules() if isinstance(m, DeformConv2d)]
    assert len(layers) == {"resnet50": 3, "mobilenet_v2": 4, "timm:resnet26": 2}[name]
    for layer in layers:
        for conv in (layer, layer.conv_offset):
            assert (conv.stride, conv.padding, conv.dilation) == ((1, 1), (2, 2), (2, 2))
    with torch.no_grad():
        ours, theirs = (t.maps((5,)).eval()(IMAGES)["0"] for t in (built, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_stride_that_two_stages_share_means_the_last() -> None:
    built = build_trunk("resnet18", output_stride=16)
    with torch.no_grad():
        assert built.body((8, 16)).eval()(IMAGES)["1"].shape == (1, 512, 6, 4)
        assert built.maps((4,)).eval()(IMAGES)["0"].shape == (1, 256, 6, 4)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("resnet18", 12, r"output_stride: must be one of the strides \(2, 4, 8, 16, 32\); got 12; use 16"),
        ("resnet18", 2, "downsample by centred convolutions .*; got maxpool, a MaxPool2d of stride 2; leave the"),
        ("timm:resnet26d", 16, r"got layer4.0.downsample.0, a AvgPool2d of stride 2; leave the stride at 32"),
        ("timm:convnext_atto", 16, r"got stages.3.downsample.1, a Conv2d with kernel \(2, 2\) and padding"),
    ],
)
def test_what_cannot_be_dilated_is_refused(name: str, stride: int, message: str) -> None:
    with pytest.raises(PliantError, match=message):
        build_trunk(name, output_stride=stride)
