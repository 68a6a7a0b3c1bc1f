# SPDX-License-Identifier: Apache-2.0
"""Transforms of training for classification: the standard recipe of ImageNet."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import v2

from pliant._check import fail
from pliant.data.transforms import Transform, check_angle, composed, last_steps


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
        PliantError: a size, a share, a ratio, a probability or an angle out of range.

    Example:
        >>> import torch
        >>> transform = classification_transforms(8)
        >>> image, _ = transform(torch.zeros(3, 20, 30, dtype=torch.uint8), {})
        >>> tuple(image.shape), image.dtype
        ((3, 8, 8), torch.float32)
    """
    if size < 1:
        fail("size", "must be a positive number of pixels", size, "use 224")
    for name, (low, high), most in (("scale", scale, 1.0), ("ratio", ratio, float("inf"))):
        if not 0 < low <= high <= most:
            limit = f" up to {most:g}" if most == 1 else ""
            fix = "leave it out for the usual ones"
            fail(name, f"must be two rising positive numbers{limit}", (low, high), fix)
    last = last_steps(flip=flip, vertical_flip=vertical_flip, rotate90=rotate90, photometric=photometric)
    check_angle(rotate)
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[Any] = [v2.RandomRotation(rotate, interpolation=bilinear)] if rotate else []
    steps += [v2.RandomResizedCrop(size, scale=scale, ratio=ratio, antialias=True)]
    return composed([*steps, *last])
