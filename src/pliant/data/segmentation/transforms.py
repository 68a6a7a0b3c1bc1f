# SPDX-License-Identifier: Apache-2.0
"""Transforms of training for semantic segmentation: image and label map change together, labels are never mixed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812
from torchvision.tv_tensors import Image, Mask, wrap

from pliant._check import fail
from pliant._imagenet import IMAGENET_MEAN
from pliant._labels import IGNORE
from pliant.data.transforms import Target, Transform, check_angle, composed, last_steps

# What is outside the image gets the mean of ImageNet, which normalisation makes zero, and no label.
_MEAN = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
_FILL: dict[Any, Any] = {Image: _MEAN, Mask: IGNORE, "others": 0}


class RandomScale:
    """Resize image and label map by one factor, drawn from [low, high] evenly."""

    def __init__(self, low: float, high: float) -> None:
        if not 0 < low <= high:
            fix = "use 0.5 2.0 for instance"
            fail("scale", "must be two rising positive factors", (low, high), fix)
        self.low, self.high = low, high

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return image and target, resized together."""
        factor = self.low + (self.high - self.low) * torch.rand(()).item()
        height, width = (max(1, round(side * factor)) for side in image.shape[-2:])
        labels = resize_labels(target["labels_map"], (height, width))
        resized = F.resize(image, [height, width], antialias=True)
        return resized, {**target, "labels_map": wrap(labels, like=target["labels_map"])}


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (H, W) labels to `size` by the nearest pixel, centres on centres as bilinear resizing has them.

    Example:
        >>> resize_labels(torch.tensor([[1, 2, 3, 4, 5, 6]], dtype=torch.uint8), (1, 2)).tolist()
        [[2, 5]]
    """
    plain = labels.as_subclass(Tensor)[None, None]
    return interpolate(plain, size=size, mode="nearest-exact")[0, 0]


def segmentation_transforms(
    *,
    scale: tuple[float, float] | None = None,
    rotate: float = 0.0,
    crop: tuple[int, int] | None = None,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    rotate90: bool = False,
    photometric: bool = False,
) -> Transform:
    """Return the transform of training: uint8 image and label map in, float32 image in [0, 1] and labels (H, W) out.

    They are done in the order of the arguments. What a turned image or a crop shows of the outside has the mean colour
    of ImageNet and the label 255, which counts nowhere. Random numbers are torch's.

    Args:
        scale: resize by a factor drawn from [low, high].
        rotate: turn by an angle of at most so many degrees either way; image bilinear, labels by the nearest pixel.
        crop: (height, width) in pixels of a random window, which reaches outside an image that is smaller.
        flip: probability of a mirror image, left to right.
        vertical_flip: probability of a mirror image, top to bottom.
        rotate90: turn by a random number of quarters.
        photometric: change brightness, contrast, saturation, hue and channel order at random, as SSD does.

    Raises:
        PliantError: a probability outside [0, 1], a factor, an angle or a side that is out of range.

    Example:
        >>> transform = segmentation_transforms(scale=(0.5, 2.0), crop=(24, 32))
        >>> target = {"labels_map": Mask(torch.full((20, 30), 2, dtype=torch.uint8))}
        >>> image, target = transform(Image(torch.zeros(3, 20, 30, dtype=torch.uint8)), target)
        >>> tuple(image.shape), tuple(target["labels_map"].shape)
        ((3, 24, 32), (24, 32))
    """
    last = last_steps(flip=flip, vertical_flip=vertical_flip, rotate90=rotate90, photometric=photometric)
    check_angle(rotate)
    if crop is not None and min(crop) < 1:
        fail("crop", "must be a height and a width in pixels", crop, "use 768 1024 for instance")
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[Any] = [RandomScale(*scale)] if scale is not None else []
    steps += [v2.RandomRotation(rotate, interpolation=bilinear, fill=_FILL)] if rotate else []
    steps += [v2.RandomCrop(crop, pad_if_needed=True, fill=_FILL)] if crop is not None else []
    return composed([*steps, *last])
