# SPDX-License-Identifier: Apache-2.0
"""Transforms of training for classification: the standard recipe of ImageNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import wrap

from pliant._check import PliantError, fail
from pliant.data.transforms import Chain, Target, ToFloat, Transform, randint


class _RandomRotate90:
    """Turn an image by 0, 90, 180 or 270 degrees, each as likely."""

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        turned = torch.rot90(image.as_subclass(Tensor), randint(4), (-2, -1)).contiguous()
        return wrap(turned, like=image), target


def classification_transforms(
    size: int = 224,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    rotate: float = 0.0,
    rotate90: bool = False,
    photometric: bool = False,
) -> Transform:
    """Return the transform of training: uint8 image in, float32 image (3, size, size) in [0, 1] out.

    Args:
        size: side in pixels of the square that a random window is resized to.
        scale: share of the image's area that the window has, from ... to ...
        ratio: width over height of the window, from ... to ...
        flip: probability of a mirror image, left to right.
        vertical_flip: probability of a mirror image, top to bottom.
        rotate: turn by an angle of at most so many degrees either way, black outside.
        rotate90: turn by a random number of quarters.
        photometric: change brightness, contrast, saturation, hue and channel order at random.

    Raises:
        ValueError: a size, a share, a ratio, a probability or an angle out of range.

    Example:
        >>> import torch
        >>> transform = classification_transforms(8)
        >>> image, _ = transform(torch.zeros(3, 20, 30, dtype=torch.uint8), {})
        >>> tuple(image.shape), image.dtype
        ((3, 8, 8), torch.float32)
    """
    if size < 1:
        fail("size", "must be a positive number of pixels", size, "use 224", kind=PliantError)
    for name, (low, high), most in (("scale", scale, 1.0), ("ratio", ratio, float("inf"))):
        if not 0 < low <= high <= most:
            limit = f" up to {most:g}" if most == 1 else ""
            fail(name, f"must be two rising positive numbers{limit}", (low, high), "leave it out for the usual ones",
                 kind=PliantError)  # fmt: skip
    for name, chance in (("flip", flip), ("vertical_flip", vertical_flip)):
        if not 0 <= chance <= 1:
            fail(name, "must be a probability in [0, 1]", chance, "use 0.5 for instance", kind=PliantError)
    if not 0 <= rotate <= 180:
        fail("rotate", "must be an angle from 0 to 180 degrees", rotate, "use 10 for instance", kind=PliantError)
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[Any] = [v2.RandomRotation(rotate, interpolation=bilinear)] if rotate else []
    steps += [v2.RandomResizedCrop(size, scale=scale, ratio=ratio, antialias=True)]
    steps += [v2.RandomHorizontalFlip(flip)] if flip else []
    steps += [v2.RandomVerticalFlip(vertical_flip)] if vertical_flip else []
    steps += [_RandomRotate90()] if rotate90 else []
    steps += [v2.RandomPhotometricDistort(p=0.5)] if photometric else []
    return Chain([*steps, ToFloat()])
