# SPDX-License-Identifier: Apache-2.0
"""What folding a normalization keeps, where it is done, and where it must not be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import pliant
from pliant._check import PliantError
from pliant.nn import DeformConv2d
from pliant.surgery import convert, fuse, revert


def unlike_the_start(model: nn.Module) -> nn.Module:
    """Return `model` in float64 with statistics, scales and offsets that all matter."""
    generator = torch.Generator().manual_seed(3)
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 4)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) / 4)
            if isinstance(module, DeformConv2d):
                weight = module.conv_offset.weight
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    return model


def normalizations(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def image() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# Counted by hand: the second convolution of each bottleneck of c3 to c5, 4 + 6 + 3; of the last three 3x3 ones of
# resnet18, each is followed by its own normalization; regnety's holds the activation.
@pytest.mark.parametrize(
    ("build", "where", "folded"),
    [
        (lambda: torchvision.models.resnet50(weights=None), "c3-c5", 13),
        (lambda: torchvision.models.resnet18(weights=None), "last3", 3),
        (lambda: timm.create_model("resnet18", pretrained=False), "last3", 3),
        (
            lambda: timm.create_model("regnety_002", pretrained=False),
            "last1",
            1,
        ),  # its normalization holds the activation
    ],
    ids=["torchvision-resnet50", "torchvision-resnet18", "timm-resnet18", "timm-regnety"],
)
@torch.no_grad()
def test_output_stays_and_normalizations_go(build: Callable[[], nn.Module], where: str, folded: int) -> None:
    model = unlike_the_start(convert(build(), where))
    before, count = model(image()), normalizations(model)
    plain = convert(build(), where).double().eval()
    assert not torch.allclose(plain(image()), before, rtol=1e-3), (
        "statistics and offsets must matter, or nothing is tested"
    )
    fused = fuse(model)
    assert fused is model
    assert count - normalizations(model) == folded
    torch.testing.assert_close(model(image()), before, rtol=1e-6, atol=1e-7)  # rounding grows from layer to layer
    state = model.state_dict()
    revert(model)  # fused layers are no longer those of the convolutions
    assert list(model.state_dict()) == list(state)


def test_weights_by_hand() -> None:
    layer, norm = DeformConv2d(1, 2, 1, bias=True), nn.BatchNorm2d(2, eps=0.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
        assert layer.bias is not None
        layer.bias.copy_(torch.tensor([1.0, -2.0]))
        norm.running_mean.copy_(torch.tensor([0.5, 1.0]))
        norm.running_var.copy_(torch.tensor([4.0, 0.25]))
        norm.weight.copy_(torch.tensor([6.0, 2.0]))
        norm.bias.copy_(torch.tensor([-1.0, 7.0]))
    fuse(nn.Sequential(layer, norm).eval())
    assert layer.weight.flatten().tolist() == [9.0, 20.0]  # 3 * 6 / 2, 5 * 2 / 0.5
    assert layer.bias.tolist() == [0.5, -5.0]  # (1 - 0.5) * 3 - 1, (-2 - 1) * 4 + 7


def test_fixed_statistics_of_torchvision() -> None:
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    norm.running_mean.fill_(0.25)
    norm.weight.fill_(1.5)
    model = nn.Sequential(DeformConv2d(3, 4, 3), norm).eval()
    x = torch.rand(1, 3, 7, 9)
    before = model(x)
    assert isinstance(fuse(model)[1], nn.Identity)
    torch.testing.assert_close(model(x), before)


class Used(nn.Module):
    """The output of the convolution goes past the normalization too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = DeformConv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Between(Used):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).relu())


class Twice(Used):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm(torch.stack([x[:, 0]] * 4, 1))


class Untraceable(Used):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def hooked() -> nn.Module:
    model = nn.Sequential(DeformConv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[1].register_forward_hook(lambda module, arguments, output: output * 2)
    return model


def shared() -> nn.Module:
    layer = DeformConv2d(3, 3, 3, padding=1)
    return nn.Sequential(layer, nn.BatchNorm2d(3), layer)


def without_statistics() -> nn.Module:
    return nn.Sequential(DeformConv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


@pytest.mark.parametrize("build", [Used, Between, Twice, Untraceable, hooked, shared, without_statistics])
@torch.no_grad()
def test_what_is_left_alone(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    x = torch.rand(1, 3, 7, 9)
    before = model(x)
    fuse(model)
    assert normalizations(model) == 1
    assert torch.equal(model(x), before)


def test_a_model_in_training_mode_is_refused() -> None:
    model = nn.Sequential(DeformConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].train()
    with pytest.raises(PliantError, match="^model: must be in evaluation mode"):
        pliant.fuse(model)
    assert isinstance(model[1], nn.BatchNorm2d)


def test_training_goes_on_by_the_statistics_of_the_batch_and_a_refusal_changes_nothing() -> None:
    """Nothing is folded in training: outputs follow the batch, and the running statistics go on being collected."""
    layer, norm = DeformConv2d(3, 4, 3), nn.BatchNorm2d(4)
    model, x = nn.Sequential(layer, norm).train(), torch.rand(2, 3, 7, 9)
    weight = layer.weight.clone()
    with pytest.raises(PliantError):
        fuse(model)
    y = model(x)
    assert model[1] is norm and torch.equal(layer.weight, weight)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * layer(x).mean((0, 2, 3)))  # momentum 0.1, from 0
