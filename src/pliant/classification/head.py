# SPDX-License-Identifier: Apache-2.0
"""The last layer of a classification network, for another number of classes."""

from __future__ import annotations

from torch import nn

from pliant._check import fail


def replace_head(network: nn.Module, num_classes: int) -> nn.Module:
    """Give `network` a last layer for `num_classes`; it keeps its own, weights and all, if that fits already.

    timm's networks say how (`reset_classifier`); in others it is the linear layer, or the 1x1 convolution, that was
    registered last.

    Args:
        network: a classification network of torchvision or timm; changed in place.
        num_classes: C.

    Raises:
        PliantError: `num_classes` is below 1, or there is no such layer.

    Example:
        >>> import torchvision
        >>> replace_head(torchvision.models.resnet18(), 10).fc
        Linear(in_features=512, out_features=10, bias=True)
    """
    if num_classes < 1:
        fail("num_classes", "must be at least 1", num_classes, "give the number of classes")
    if hasattr(network, "reset_classifier"):
        if network.num_classes != num_classes:
            network.reset_classifier(num_classes)  # type: ignore[operator]
        return network
    heads = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    name, last = heads[-1] if heads else ("", None)
    if isinstance(last, nn.Linear) and last.out_features != num_classes:
        network.set_submodule(name, nn.Linear(last.in_features, num_classes, bias=last.bias is not None))
    elif isinstance(last, nn.Conv2d) and last.out_channels != num_classes:
        if last.kernel_size != (1, 1):
            _refuse(network)
        network.set_submodule(name, nn.Conv2d(last.in_channels, num_classes, 1, bias=last.bias is not None))
    elif last is None:
        _refuse(network)
    return network


def _refuse(network: nn.Module) -> None:
    rule = "must end in a linear layer or a 1x1 convolution"
    fail("backbone", rule, type(network).__name__, "choose a classification network")
