# SPDX-License-Identifier: Apache-2.0
"""The papers' backbone of detectors: conv4 for proposals, a dilated conv5 at the same stride for the heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pliant._check import fail
from pliant.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    Trunk,
    as_trunk,
    build_trunk,
    pixel_statistics,
)

STRIDE = 16


class DilatedBackbone(nn.Module):
    """A trunk with conv5 at stride 16 and a 1x1 convolution on it: images (N, 3, H, W) to two maps of stride 16.

    `"c4"` is conv4's output, with `proposal_channels` channels, and `"c5"` is the ReLU of the 1x1 convolution
    (`reduction`; `conv_new_1` in the official code) on conv5's, with `out_channels`. `image_mean` and `image_std` are
    those of the pixels that the trunk's weights were trained with.

    Args:
        body: images (N, 3, H, W) to an ordered dict of the outputs of conv4 and conv5, both of stride 16.
        channels: of the two.
        out_channels: of the 1x1 convolution.
        lr_scale: factor on the learning rate of the 1x1 convolution, for `pliant.param_groups`.
    """

    image_mean: Colour = IMAGENET_MEAN
    image_std: Colour = IMAGENET_STD

    def __init__(self, body: nn.Module, channels: tuple[int, int], out_channels: int, lr_scale: float = 1.0) -> None:
        super().__init__()
        self.body = body
        self.reduction = nn.Conv2d(channels[1], out_channels, 1)
        self.reduction.lr_scale = float(lr_scale)  # type: ignore[assignment]
        initialise(self.reduction)
        self.proposal_channels, self.out_channels = channels[0], out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps `c4` and `c5`."""
        c4, c5 = self.body(images).values()
        return {"c4": c4, "c5": functional.relu(self.reduction(c5))}


def dilated_backbone(
    trunk: str | Trunk = "resnet50",
    *,
    reduction_channels: int = 256,
    reduction_lr_scale: float = 1.0,
    dilation: int | None = None,
) -> DilatedBackbone:
    """Build the papers' backbone over `trunk`.

    Conv5 has stride 1, so that its map has stride 16 as conv4's, and all its convolutions larger than 1x1 have
    dilation 2, deformable ones and their offset branches too (see `pliant.backbones.dilate`).

    Args:
        trunk: a `pliant.backbones.Trunk`, or the name of its network. The official v1 code has 4 offset groups here.
        reduction_channels: channels of the 1x1 convolution on conv5. The official code has 256 in Faster R-CNN and
            1024 in R-FCN; the v1 paper's text says 1024 for all.
        reduction_lr_scale: factor on its learning rate; 3 in the official R-FCN.
        dilation: of conv5's convolutions larger than 1x1; None: 2.

    Raises:
        PliantError: an unknown name, a checkpoint which does not fit, or a network that cannot be dilated.

    Example:
        >>> import torch
        >>> backbone = dilated_backbone(Trunk("resnet18", deform="c5"))
        >>> {name: tuple(m.shape) for name, m in backbone(torch.zeros(1, 3, 64, 96)).items()}
        {'c4': (1, 256, 4, 6), 'c5': (1, 256, 4, 6)}

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3.
    """
    trunk = as_trunk(trunk)
    built = build_trunk(trunk, output_stride=STRIDE, dilation=dilation)
    if built.strides[3:] != (STRIDE, STRIDE):
        rule = "must have the stages C4 and C5, of strides 16 and 32"
        fail("backbone", rule, f"{trunk.network} with strides {built.strides}", "use e.g. resnet50")
    channels = (built.channels[3], built.channels[4])
    backbone = DilatedBackbone(built.maps((4, 5)), channels, reduction_channels, reduction_lr_scale)
    backbone.image_mean, backbone.image_std = pixel_statistics(built.network)
    trunk.convert_by_name(backbone)
    return backbone


def as_dilated(
    backbone: str | Trunk | DilatedBackbone,
    num_classes: int,
    reduction_channels: int,
    reduction_lr_scale: float = 1.0,
) -> DilatedBackbone:
    """Return the backbone of a detector for so many classes, which may be given by its trunk."""
    if num_classes < 2:
        fail("num_classes", "must count the background and at least one class", num_classes, "use 2 for one class")
    if isinstance(backbone, DilatedBackbone):
        return backbone
    return dilated_backbone(backbone, reduction_channels=reduction_channels, reduction_lr_scale=reduction_lr_scale)


def image_transform(
    backbone: DilatedBackbone, min_size: int | Sequence[int], max_size: int
) -> GeneralizedRCNNTransform:
    """Return torchvision's resizing, normalising and padding of images for `backbone`, and its way back for boxes."""
    sizes = min_size if isinstance(min_size, int) else tuple(min_size)
    return GeneralizedRCNNTransform(sizes, max_size, list(backbone.image_mean), list(backbone.image_std))


def initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """Give a new layer the official code's start: N(0, 0.01^2), biases zero."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def at_least_float32(values: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32: from here on they are coordinates of boxes, or losses."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
