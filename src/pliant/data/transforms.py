# SPDX-License-Identifier: Apache-2.0
"""What the transforms of all tasks share: flips, turns, colours, and floats at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, wrap

from pliant._check import fail

Target = dict[str, Tensor]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]


class RandomRotate90:
    """Turn image and target by 0, 90, 180 or 270 degrees, each as likely: from above no side is up."""

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return image and target, turned together."""
        return rotate90(image, target, randint(4))


def rotate90(image: Tensor, target: Target, turns: int) -> tuple[Tensor, Target]:
    """Turn image, boxes, masks and label map counter-clockwise by `turns` quarters: no pixel is interpolated."""
    turned = dict(target)
    if "boxes" in target:
        turned["boxes"] = _turned_boxes(target["boxes"], (image.shape[-2], image.shape[-1]), turns)
    for name in ("masks", "labels_map"):
        if name in target:
            turned[name] = _turned_pixels(target[name], turns)
    return _turned_pixels(image, turns), turned


def _turned_pixels(pixels: Tensor, turns: int) -> Tensor:
    turned: Tensor = wrap(torch.rot90(pixels.as_subclass(Tensor), turns, (-2, -1)).contiguous(), like=pixels)
    return turned


def _turned_boxes(boxes: Tensor, canvas: tuple[int, int], turns: int) -> Tensor:
    corners, (height, width) = boxes.as_subclass(Tensor), canvas
    for _ in range(turns % 4):
        # A quarter counter-clockwise takes the point (x, y) to (y, W - x).
        x1, y1, x2, y2 = corners.unbind(-1)
        corners = torch.stack((y1, width - x2, y2, width - x1), -1)  # (L, 4)
        height, width = width, height
    return as_boxes(corners, (height, width))


def last_steps(*, flip: float, vertical_flip: float, rotate90: bool, photometric: bool) -> list[Any]:
    """Return the steps with which the training of every task ends: flips, quarter turns, colours, floats.

    Raises:
        PliantError: a probability outside [0, 1].
    """
    for name, chance in (("flip", flip), ("vertical_flip", vertical_flip)):
        if not 0 <= chance <= 1:
            fail(name, "must be a probability in [0, 1]", chance, "use 0.5 for instance")
    steps: list[Any] = [v2.RandomHorizontalFlip(flip)] if flip else []
    steps += [v2.RandomVerticalFlip(vertical_flip)] if vertical_flip else []
    steps += [RandomRotate90()] if rotate90 else []
    steps += [v2.RandomPhotometricDistort(p=0.5)] if photometric else []
    return [*steps, *_to_float()]


def composed(steps: list[Any]) -> Transform:
    """Return the transform that takes all `steps`, one after the other."""
    transform: Transform = v2.Compose(steps)
    return transform


def _to_float() -> list[Any]:
    return [v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]


def eval_transforms() -> Transform:
    """Return the transform of evaluation: uint8 image to float32 in [0, 1]; the target keeps its values.

    Example:
        >>> import torch
        >>> image, target = eval_transforms()(torch.full((3, 2, 4), 255, dtype=torch.uint8), {})
        >>> image.dtype, image.max().item()
        (torch.float32, 1.0)
    """
    return composed(_to_float())


def collate(batch: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Return a batch as torchvision's detectors take it: a list of images and a list of targets.

    Example:
        >>> import torch
        >>> images, targets = collate([(torch.zeros(3, 4, 6), {}), (torch.zeros(3, 5, 2), {})])
        >>> [tuple(image.shape) for image in images]
        [(3, 4, 6), (3, 5, 2)]
    """
    return [image for image, _ in batch], [target for _, target in batch]


def check_angle(degrees: float) -> None:
    """Raise a `PliantError` unless `rotate` is an angle from 0 to 180 degrees."""
    if not 0 <= degrees <= 180:
        fail("rotate", "must be an angle from 0 to 180 degrees", degrees, "use 10 for instance")


def as_boxes(corners: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return (L, 4) corners in pixels as boxes of an image of the size `canvas`, (height, width)."""
    boxes: Tensor = BoundingBoxes(corners, format=BoundingBoxFormat.XYXY, canvas_size=canvas)
    return boxes


def randint(stop: int) -> int:
    """Return a random integer from 0 to stop - 1."""
    return int(torch.randint(stop, ()))
