# SPDX-License-Identifier: Apache-2.0
"""Networks that no library builds: the v1 paper's Aligned-Inception-ResNet, and ResNets as first published."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

EXPANSION = 4


class InceptionResidualBlock(nn.Module):
    """A residual block with two branches of 3x3 convolutions, one of them two deep, joined by a 1x1 convolution.

    Args:
        in_channels: channels of the input.
        width: P, channels of the first branch; the second has P / 2 and the output 4 P.
        stride: of the 1x1 convolutions that change the number of channels, and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        half, out_channels = width // 2, EXPANSION * width
        self.branch1 = nn.Sequential(*_unit(in_channels, width, 1, stride), _convolution(width, width, 3))
        self.branch2 = nn.Sequential(
            *_unit(in_channels, half, 1, stride), *_unit(half, half, 3), _convolution(half, half, 3)
        )
        self.bn = nn.BatchNorm2d(width + half)
        self.join = nn.Sequential(_convolution(width + half, out_channels, 1), nn.BatchNorm2d(out_channels))
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            projection = _convolution(in_channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        """Return the block's output (N, 4 P, H / stride, W / stride)."""
        joined = torch.cat([self.branch1(input), self.branch2(input)], dim=1)
        residual: Tensor = self.join(self.relu(self.bn(joined)))
        output: Tensor = self.relu(residual + self.downsample(input))
        return output


class AlignedInceptionResNet(nn.Module):
    """A classification network of Inception-residual blocks whose cells lie in the middle of what they see.

    Unlike Inception-ResNet it pads each convolution and pooling by half of its kernel, so that a cell's receptive field
    is centred on the cell's place in the image, and it repeats one kind of block.

    The paper gives the alignment by padding, the repeated blocks, and 64.3 million parameters. What the sources at hand
    do not show: how many blocks the stages have and of how many channels, the branches of a block, where batch norm and
    ReLU stand, how the number of channels changes, and which of a block's convolutions have the stride. All but the
    last follow the public reimplementation "AIR" (soeaver/pytorch-classification); with it this network has 64.38
    million parameters. The authors published no
    weights of it.

    Args:
        blocks: Inception-residual blocks of the four stages, which have 256, 512, 1024 and 2048 channels.
        num_classes: outputs of the last layer.

    Example:
        >>> network = AlignedInceptionResNet(blocks=(1, 1, 1, 1), num_classes=10)
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), appendix B.
    """

    def __init__(self, blocks: Sequence[int] = (3, 4, 23, 3), num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels, stages = 64, []
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            first = InceptionResidualBlock(channels, width, stride=1 if stage == 0 else 2)
            channels = EXPANSION * width
            stages.append(nn.Sequential(first, *(InceptionResidualBlock(channels, width) for _ in range(count - 1))))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of the classes (N, num_classes) for normalised images (N, 3, H, W)."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        scores: Tensor = self.fc(self.avgpool(features).flatten(1))
        return scores


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _unit(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        _convolution(in_channels, out_channels, kernel, stride),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def original_resnet(name: str, *, padded_pool: bool = True) -> ResNet:
    """Return torchvision's ResNet `name`, of bottlenecks, with each stage's stride in its first 1x1 convolution.

    torchvision moved it to the 3x3. The original form is that of Caffe's weights: detectron2's and mmdetection's
    (`style='caffe'`), and the official MXNet code's. Names and shapes of the weights are the same in both forms.

    Args:
        name: `resnet50` or `resnet101`.
        padded_pool: whether the max pooling pads by 1 as in PyTorch; False pads nothing and counts a window that
            reaches over the end, as Caffe and the official MXNet code do. Both halve the size.

    Example:
        >>> network = original_resnet("resnet50")
        >>> network.layer2[0].conv1.stride, network.layer2[0].conv2.stride
        ((2, 2), (1, 1))
    """
    network: ResNet = torchvision.models.get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    if not padded_pool:
        network.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
    return network
