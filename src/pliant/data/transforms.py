# SPDX-License-Identifier: Apache-2.0
"""Transforms of training and evaluation. Resizing is not among them: torchvision's detectors resize inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, wrap

from pliant._check import fail

Target = dict[str, Tensor]
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]

# How often a window is drawn again when no box is in it, before one without boxes is taken as background.
_DRAWS = 10


class DropCrowd:
    """Leave out crowds and difficult objects: they are too vague to learn from, and the metric ignores them."""

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return the image, and the target without crowds."""
        return image, _keep(target, target["iscrowd"] == 0)


class RandomCrop:
    """Cut a window of `size` x `size` pixels at a random place; an image smaller than that is kept whole on that axis.

    A box stays, cut at the border, if at least `min_visible` of its area is inside. A window without boxes is drawn
    again up to ten times if the image has boxes, so that few of the windows of a sparse photograph are empty.
    """

    def __init__(self, size: int, min_visible: float = 0.4) -> None:
        if size < 1:
            fail("crop", "must be a positive number of pixels", size, "use 320 for instance, or None")
        if not 0 < min_visible <= 1:
            fail("min_visible", "must be a fraction in (0, 1]", min_visible, "use 0.4 for instance")
        self.size = size
        self.min_visible = min_visible

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return a window of the image, and the boxes that are visible in it."""
        top, left, height, width = self._window(image.shape[-2:], target["boxes"])
        kept = _keep(target, visible_fraction(target["boxes"], left, top, width, height) >= self.min_visible)
        corners = kept["boxes"].as_subclass(Tensor) - torch.tensor([left, top, left, top])
        corners = corners.clamp(min=0).minimum(corners.new_tensor([width, height, width, height]))  # (L, 4)
        kept["area"] = (corners[:, 2:] - corners[:, :2]).prod(-1)
        kept["boxes"] = _boxes(corners, (height, width))
        if "masks" in kept:
            kept["masks"] = F.crop(kept["masks"], top, left, height, width)
            kept["area"] = kept["masks"].as_subclass(Tensor).sum((-2, -1)).float()
            kept = _keep(kept, kept["area"] > 0)
        return F.crop(image, top, left, height, width).contiguous(), kept

    def _window(self, shape: Sequence[int], boxes: Tensor) -> tuple[int, int, int, int]:
        height, width = (min(self.size, side) for side in shape)
        top, left = 0, 0
        for _ in range(_DRAWS if len(boxes) else 1):
            top, left = (randint(side - length + 1) for side, length in zip(shape, (height, width), strict=True))
            if (visible_fraction(boxes, left, top, width, height) >= self.min_visible).any():
                break
        return top, left, height, width


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
    return _boxes(corners, (height, width))


def visible_fraction(boxes: Tensor, left: float, top: float, width: float, height: float) -> Tensor:
    """Return which part of each box's area lies in a window: (L, 4) corners to (L,) in [0, 1]."""
    corners = boxes.as_subclass(Tensor)
    low = corners[:, :2].maximum(corners.new_tensor([left, top]))
    high = corners[:, 2:].minimum(corners.new_tensor([left + width, top + height]))
    inside = (high - low).clamp(min=0).prod(-1)
    return inside / (corners[:, 2:] - corners[:, :2]).prod(-1)


def train_transforms(
    *,
    crop: int | None = None,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    rotate90: bool = False,
    photometric: bool = False,
    min_visible: float = 0.4,
) -> Transform:
    """Return the transform of training: uint8 image and target in, float32 image in [0, 1] and target out.

    Crowds and difficult objects are left out of the target. Random numbers are torch's, so that
    `torch.manual_seed` and a loader's workers decide them.

    Args:
        crop: side in pixels of a random square window; None takes the whole image. For photographs much larger than
            their objects, like aerial ones, 320 for instance.
        flip: probability of a mirror image, left to right.
        vertical_flip: probability of a mirror image, top to bottom; for photographs from above.
        rotate90: turn by a random number of quarters; for photographs from above.
        photometric: change brightness, contrast, saturation, hue and channel order at random, as SSD does.
        min_visible: the fraction of its area that must be inside the window for a box to stay.

    Raises:
        PliantError: a probability outside [0, 1], a crop that is not positive, min_visible outside (0, 1].

    Example:
        >>> transform = train_transforms(crop=16, vertical_flip=0.5, rotate90=True)
        >>> boxes = BoundingBoxes(torch.tensor([[2.0, 3, 12, 13]]), format="XYXY", canvas_size=(20, 30))
        >>> one = torch.ones(1)
        >>> target = {"boxes": boxes, "labels": one.long(), "area": 100 * one, "iscrowd": 0 * one}
        >>> image, _ = transform(torch.zeros(3, 20, 30, dtype=torch.uint8), target)
        >>> tuple(image.shape), image.dtype
        ((3, 16, 16), torch.float32)
    """
    check_probabilities(flip=flip, vertical_flip=vertical_flip)
    steps: list[Any] = [DropCrowd()]
    steps += [RandomCrop(crop, min_visible)] if crop is not None else []
    steps += [v2.RandomHorizontalFlip(flip)] if flip else []
    steps += [v2.RandomVerticalFlip(vertical_flip)] if vertical_flip else []
    steps += [RandomRotate90()] if rotate90 else []
    steps += [v2.RandomPhotometricDistort(p=0.5)] if photometric else []
    return Chain([*steps, ToFloat()])


def eval_transforms() -> Transform:
    """Return the transform of evaluation: uint8 image to float32 in [0, 1]; the target stays as it is.

    Example:
        >>> import torch
        >>> image, target = eval_transforms()(torch.full((3, 2, 4), 255, dtype=torch.uint8), {})
        >>> image.dtype, image.max().item()
        (torch.float32, 1.0)
    """
    return ToFloat()


def collate(batch: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Return a batch as torchvision's detectors take it: a list of images and a list of targets.

    Example:
        >>> import torch
        >>> images, targets = collate([(torch.zeros(3, 4, 6), {}), (torch.zeros(3, 5, 2), {})])
        >>> [tuple(image.shape) for image in images]
        [(3, 4, 6), (3, 5, 2)]
    """
    return [image for image, _ in batch], [target for _, target in batch]


class Chain:
    """Apply one transform after the other. A class, so that loaders can send it to spawned workers."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = list(steps)

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return what the last transform makes of it."""
        for step in self.steps:
            image, target = step(image, target)
        return image, target


class ToFloat:
    """uint8 image to float32 in [0, 1]; the target stays as it is."""

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return the image as a plain tensor of floats, and the target."""
        return F.to_dtype(image, torch.float32, scale=True).as_subclass(Tensor), target


def check_probabilities(**chances: float) -> None:
    """Raise a `PliantError` that names the first argument which is no probability."""
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            fail(name, "must be a probability in [0, 1]", chance, "use 0.5 for instance")


def check_angle(degrees: float) -> None:
    """Raise a `PliantError` unless `rotate` is an angle from 0 to 180 degrees."""
    if not 0 <= degrees <= 180:
        fail("rotate", "must be an angle from 0 to 180 degrees", degrees, "use 10 for instance")


def _keep(target: Target, mask: Tensor) -> Target:
    """Return `target` with the boxes of `mask` (L,) only."""
    rows = {name: target[name][mask] for name in ("labels", "area", "iscrowd")}
    typed = (name for name in ("boxes", "masks") if name in target)  # tv_tensors, which an index would take apart
    rows |= {name: wrap(target[name].as_subclass(Tensor)[mask], like=target[name]) for name in typed}
    return {**target, **rows}


def _boxes(corners: Tensor, canvas: tuple[int, int]) -> Tensor:
    boxes: Tensor = BoundingBoxes(corners, format=BoundingBoxFormat.XYXY, canvas_size=canvas)
    return boxes


def randint(stop: int) -> int:
    """Return a random integer from 0 to stop - 1."""
    return int(torch.randint(stop, ()))
