# SPDX-License-Identifier: Apache-2.0
"""Operations and parameters of ResNet-50 with deformable layers: by hand and by torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from pliant.analysis import count_flops
from pliant.nn import DeformConv2d
from pliant.ops import deform_conv2d
from pliant.surgery import convert

# Channels and side of the output (224 x 224 images) of the 3x3 convolutions of ResNet-50's stages, by their number.
STAGES = {"c2": (3, 64, 56), "c3": (4, 128, 28), "c4": (6, 256, 14), "c5": (3, 512, 7)}
IMAGE = (1, 3, 224, 224)


def _resnet50() -> torch.nn.Module:
    with torch.device("meta"):
        return torchvision.models.resnet50(weights=None).eval()


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("where", "modulated", "layers", "millions"),
    [
        ("c2", False, 3, 0.031),
        ("c3", False, 4, 0.083),
        ("c4", False, 6, 0.249),
        ("c5", False, 3, 0.249),
        ("c3-c5", True, 13, 0.871),
    ],
)
def test_what_deformable_layers_add_to_resnet_50(where: str, modulated: bool, layers: int, millions: float) -> None:
    plain, deformable = _resnet50(), convert(_resnet50(), where, modulated=modulated)
    found = [module for module in deformable.modules() if isinstance(module, DeformConv2d)]
    assert len(found) == layers
    assert (_parameters(deformable) - _parameters(plain)) / 1e6 == pytest.approx(millions, abs=5e-4)
    stages = [STAGES[f"c{k}"] for k in range(int(where[1]), int(where[-1]) + 1)]
    branch, each = (27, 9) if modulated else (18, 8)
    by_hand = sum(count * (2 * branch + each) * 9 * channels * side**2 for count, channels, side in stages)
    image = torch.empty(IMAGE, device="meta")
    assert count_flops(deformable, image).total - count_flops(plain, image).total == by_hand


def test_the_plain_network_has_torchvisions_number() -> None:
    counted = count_flops(_resnet50(), torch.empty(IMAGE, device="meta"))
    multiplications = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]
    assert counted.total / 2e9 == pytest.approx(multiplications, abs=1e-3)
    assert counted.by_module[""] == counted.total
    assert counted.by_module["layer4.2.conv2"] == 2 * 512 * 512 * 9 * 49


def test_groups_and_the_backward_pass_by_hand() -> None:
    N, C, H, W, O, groups = 2, 6, 5, 7, 4, 2
    shapes = [(N, C, H, W), (N, 18, H, W), (O, C // groups, 3, 3)]
    arguments = [torch.rand(shape, requires_grad=True) for shape in shapes]
    products, samples = 2 * N * O * (C // groups) * 9 * H * W, N * C * 9 * H * W
    with FlopCounterMode(display=False) as forward:
        output = deform_conv2d(*arguments, padding=1)
    assert forward.get_total_flops() == products + 8 * samples
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(output.sum(), arguments)
    assert backward.get_total_flops() == 2 * products + 8 * (1 + 1 + 2) * samples
    output = deform_conv2d(arguments[0].detach(), arguments[1].detach(), arguments[2], padding=1)
    with FlopCounterMode(display=False) as weights_alone:
        torch.autograd.grad(output.sum(), arguments[2])
    assert weights_alone.get_total_flops() == products + 8 * samples
