# SPDX-License-Identifier: Apache-2.0
"""What a detector finds before suppression, on an image as it is, at another size, or mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from pliant.detection import Thresholds, set_thresholds, thresholds

# No overlap is larger.
_NO_SUPPRESSION = 2.0
_ALL = 1_000_000


def candidates(
    model: GeneralizedRCNN, images: list[Tensor], *, size: tuple[int, int] | None = None, flip: bool = False
) -> list[dict[str, Tensor]]:
    """Return `boxes` (L, 4), `labels` (L,) and `scores` (L,) of each image from before any suppression, without masks.

    They are all that are above the score threshold, in pixels of the images as given.

    Args:
        model: a detector in evaluation form.
        images: (3, H, W) floats in 0..1.
        size: short side and limit of the long side that the images are resized to; None: the detector's own.
        flip: look at the mirror images; the boxes are turned back.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = faster_rcnn(3, "resnet18", min_size=64, thresholds=Thresholds(score=0.9)).eval()
        >>> [sorted(found) for found in candidates(model, [torch.zeros(3, 64, 80)], size=(96, 160), flip=True)]
        [['boxes', 'labels', 'scores']]
    """
    with _everything(model), _resizing(model, size):
        found = model([image.flip(-1) for image in images] if flip else images)
    outputs = [{name: output[name] for name in ("boxes", "labels", "scores")} for output in found]
    if flip:
        for image, output in zip(images, outputs, strict=True):
            x1, y1, x2, y2 = output["boxes"].unbind(1)
            width = image.shape[-1]
            output["boxes"] = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return outputs


@contextmanager
def _everything(model: GeneralizedRCNN) -> Iterator[None]:
    """Let the detector return all that it scores, and no masks."""
    before, heads = thresholds(model), model.roi_heads
    mask_pool = getattr(heads, "mask_roi_pool", None)
    set_thresholds(model, Thresholds(before.score, _NO_SUPPRESSION, _ALL))
    if mask_pool is not None:
        heads.mask_roi_pool = None  # which tells torchvision that there are no masks
    try:
        yield
    finally:
        set_thresholds(model, before)
        if mask_pool is not None:
            heads.mask_roi_pool = mask_pool


@contextmanager
def _resizing(model: GeneralizedRCNN, size: tuple[int, int] | None) -> Iterator[None]:
    """Let the detector resize images to `size`."""
    transform = model.transform
    before = transform.min_size, transform.max_size
    if size is not None:
        transform.min_size, transform.max_size = (size[0],), size[1]
    try:
        yield
    finally:
        transform.min_size, transform.max_size = before
