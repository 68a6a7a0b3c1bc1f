# SPDX-License-Identifier: Apache-2.0
"""The models that surgery is tried on: torchvision's, timm's, and one of our own with every kind of sharing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import Tensor, nn

from pliant.nn import DeformConv2d


@dataclass(frozen=True)
class Case:
    """A model, what to convert in it, and how many convolutions that must be (counted by hand)."""

    name: str
    build: Callable[[], nn.Module]
    where: str
    count: int

    def __str__(self) -> str:
        return f"{self.name}-{self.where}"


def torchvision_case(name: str, where: str, count: int) -> Case:
    return Case(f"torchvision-{name}", lambda: torchvision.models.get_model(name, weights=None), where, count)


def timm_case(name: str, where: str, count: int, **options: object) -> Case:
    return Case(f"timm-{name}", lambda: timm.create_model(name, pretrained=False, **options), where, count)


class Twins(nn.Module):
    """A convolution under two names of one parent and a name of another, one with tied weights, and a nested block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, (5, 3), stride=(1, 2), padding=(2, 1))
        self.left = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=2, bias=False)
        self.right = self.left
        self.tied = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=2, bias=False)
        self.tied.weight = self.left.weight
        self.nested = nn.ModuleDict({"same": self.left, "deep": nn.Sequential(nn.ReLU(), nn.Conv2d(6, 4, 3))})

    def forward(self, image: Tensor) -> Tensor:
        x = self.right(self.left(self.stem(image)).relu()).relu()
        x = self.nested["same"](self.tied(x))
        return self.nested["deep"](x)


CASES = [
    torchvision_case("resnet50", "c3-c5", 13),
    torchvision_case("resnet18", "c5", 4),
    torchvision_case("resnext50_32x4d", "c4-c5", 9),
    torchvision_case("regnet_y_400mf", "c3-c5", 15),
    torchvision_case("mobilenet_v3_small", "c3-c5", 10),
    torchvision_case("mobilenet_v3_large", "c5", 3),
    torchvision_case("convnext_tiny", "last2", 2),
    timm_case("resnet50", "last3", 3),
    timm_case("regnety_004", "c5", 6),
    timm_case("mobilenetv3_small_050", "c3-c5", 10),
    timm_case("convnext_atto", "c4-c5", 10),
    Case("own", Twins, ".", 4),
]


def build(case: Case, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the model in evaluation mode, with scales that let every convolution show in the output.

    Random residual networks start with zero scales (ResNet's last norm, ConvNeXt's layer scale): a wrong convolution
    behind one would go unnoticed.
    """
    torch.manual_seed(7)
    model = case.build().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == max(parameter.shape):
                parameter.uniform_(0.5, 1.5)
    return model


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    """Two images of unequal sides, (2, 3, 64, 96)."""
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(11)).to(dtype)


def deformable(model: nn.Module) -> list[DeformConv2d]:
    return [module for module in model.modules() if isinstance(module, DeformConv2d)]
