# SPDX-License-Identifier: Apache-2.0
"""Aligned-Inception-ResNet and the original ResNets: their size, alignment and use as trunks."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from pliant._check import PliantError
from pliant.backbones import Trunk, build_trunk, classification_network, staged_network
from pliant.backbones.own_networks import AlignedInceptionResNet
from pliant.detection import pyramid_backbone
from pliant.nn import DeformConv2d


def test_the_number_of_parameters_is_the_papers() -> None:
    with torch.device("meta"):
        network = AlignedInceptionResNet()
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 64_381_800
    assert count / 1e6 == pytest.approx(64.3, rel=0.002)  # the paper's number


def test_cells_stay_above_the_middle_of_what_they_see() -> None:
    network = AlignedInceptionResNet(blocks=(1, 1, 1, 1), num_classes=2).eval()
    network.maxpool = nn.AvgPool2d(3, 2, padding=1)  # the same window, of which the gradient shows all
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1e-2)
    image = torch.ones(1, 3, 512, 576, requires_grad=True)
    features = network.layer3(network.layer2(network.layer1(network.maxpool(network.relu(network.conv1(image))))))
    network.layer4(features)[0, 0, 8, 9].backward()
    seen = image.grad[0, 0] > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    assert (rows[0] + rows[-1]).item() / 2 == 8 * 32
    assert (columns[0] + columns[-1]).item() / 2 == 9 * 32
    assert len(rows) == len(columns) == 7 + 4 + 4 * (4 + 8 + 16 + 32)


def test_it_is_a_trunk_with_deformable_layers() -> None:
    with torch.device("meta"):
        built = build_trunk(Trunk("aligned-inception-resnet", deform="c5"), output_stride=16)
    assert (built.strides, built.channels) == ((2, 4, 8, 16, 16), (64, 256, 512, 1024, 2048))
    layers = {name: m for name, m in built.network.named_modules() if isinstance(m, DeformConv2d)}
    assert len(layers) == 9
    assert all(name.startswith("layer4.") and layer.dilation == (2, 2) for name, layer in layers.items())
    assert all(layer.conv_offset.dilation == (2, 2) for layer in layers.values())


def test_it_gives_a_pyramid_maps() -> None:
    network = staged_network("aligned-inception-resnet").network
    assert isinstance(network, AlignedInceptionResNet)
    maps = pyramid_backbone("aligned-inception-resnet", strides=(8, 32), out_channels=4).eval()(
        torch.rand(1, 3, 64, 96)
    )
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(8, 12), (2, 3), (1, 2)]


def test_no_library_has_its_weights() -> None:
    message = "weights: must be a checkpoint of aligned-inception-resnet; got 'default'; give a file, or leave it out"
    with pytest.raises(PliantError, match=message):
        staged_network("aligned-inception-resnet", pretrained=True)


@pytest.mark.parametrize("name", ["resnet50-caffe", "resnet50-mxnet"])
def test_original_resnets_take_torchvisions_weights_and_stride_in_the_1x1(name: str) -> None:
    network = classification_network(name)
    network.load_state_dict(torchvision.models.resnet50(weights=None).state_dict())
    strides = {
        module_name: module.stride
        for module_name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1) and "downsample" not in module_name
    }
    assert strides == dict.fromkeys(["conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"], (2, 2))
    pooled = network.maxpool(torch.arange(64.0).view(1, 1, 8, 8))[0, 0]
    first = {"resnet50-caffe": 1 * 8 + 1, "resnet50-mxnet": 2 * 8 + 2}[name]  # the last cell of the first window
    assert (tuple(pooled.shape), pooled[0, 0].item()) == ((4, 4), first)
