# SPDX-License-Identifier: Apache-2.0
"""Transforms of training for detection. Resizing is not among them: torchvision's detectors resize inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F  # noqa: N812
from torchvision.tv_tensors import wrap

from pliant._check import fail
from pliant.data.transforms import Target, Transform, as_boxes, composed, last_steps, randint

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
        kept["boxes"] = as_boxes(corners, (height, width))
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


def visible_fraction(boxes: Tensor, left: float, top: float, width: float, height: float) -> Tensor:
    """Return which part of each box's area lies in a window: (L, 4) corners to (L,) in [0, 1]."""
    corners = boxes.as_subclass(Tensor)
    low = corners[:, :2].maximum(corners.new_tensor([left, top]))
    high = corners[:, 2:].minimum(corners.new_tensor([left + width, top + height]))
    inside = (high - low).clamp(min=0).prod(-1)
    return inside / (corners[:, 2:] - corners[:, :2]).prod(-1)


def detection_transforms(
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
        >>> transform = detection_transforms(crop=16, vertical_flip=0.5, rotate90=True)
        >>> from torchvision.tv_tensors import BoundingBoxes
        >>> boxes = BoundingBoxes(torch.tensor([[2.0, 3, 12, 13]]), format="XYXY", canvas_size=(20, 30))
        >>> one = torch.ones(1)
        >>> target = {"boxes": boxes, "labels": one.long(), "area": 100 * one, "iscrowd": 0 * one}
        >>> image, _ = transform(torch.zeros(3, 20, 30, dtype=torch.uint8), target)
        >>> tuple(image.shape), image.dtype
        ((3, 16, 16), torch.float32)
    """
    last = last_steps(flip=flip, vertical_flip=vertical_flip, rotate90=rotate90, photometric=photometric)
    return composed([DropCrowd(), *([RandomCrop(crop, min_visible)] if crop is not None else []), *last])


def _keep(target: Target, mask: Tensor) -> Target:
    """Return `target` with the boxes of `mask` (L,) only."""
    rows = {name: target[name][mask] for name in ("labels", "area", "iscrowd")}
    typed = (name for name in ("boxes", "masks") if name in target)  # tv_tensors, which an index would take apart
    rows |= {name: wrap(target[name].as_subclass(Tensor)[mask], like=target[name]) for name in typed}
    return {**target, **rows}
