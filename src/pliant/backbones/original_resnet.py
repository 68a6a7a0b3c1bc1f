# SPDX-License-Identifier: Apache-2.0
"""ResNets as they were first published, for weights that were trained in this form."""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet


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
