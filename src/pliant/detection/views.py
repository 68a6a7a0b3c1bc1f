# SPDX-License-Identifier: Apache-2.0
"""What a detector finds before suppression, on an image as it is, at another size, or mirrored; and masks of boxes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference

# No overlap is larger.
_NO_SUPPRESSION = 2.0
_ALL = 1_000_000


@dataclass(frozen=True)
class Thresholds:
    """What decides which boxes of a detector are its detections.

    Attributes:
        score: detections with a lower score are dropped.
        nms: of two boxes of a class that overlap by more than this IoU the lower score is dropped.
        detections: most detections per image.
    """

    score: float
    nms: float
    detections: int


def thresholds(model: GeneralizedRCNN) -> Thresholds:
    """Return the thresholds of a detector of two stages, or of one whose proposals are its detections.

    Args:
        model: one of `pliant.detection`, or torchvision's Faster or Mask R-CNN.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> thresholds(faster_rcnn(3, "resnet18", max_detections=40))
        Thresholds(score=0.05, nms=0.5, detections=40)
    """
    heads = model.roi_heads
    if isinstance(heads, RoIHeads):
        return Thresholds(heads.score_thresh, heads.nms_thresh, heads.detections_per_img)
    return Thresholds(model.rpn.score_thresh, model.rpn.nms_thresh, model.rpn._post_nms_top_n["testing"])


def set_thresholds(model: GeneralizedRCNN, to: Thresholds) -> None:
    """Give a detector other thresholds.

    Args:
        model: as for `thresholds`; changed in place.
        to: the thresholds.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = faster_rcnn(3, "resnet18")
        >>> set_thresholds(model, Thresholds(score=0.5, nms=0.3, detections=10))
        >>> model.roi_heads.score_thresh
        0.5
    """
    heads = model.roi_heads
    if isinstance(heads, RoIHeads):
        heads.score_thresh, heads.nms_thresh, heads.detections_per_img = to.score, to.nms, to.detections
    else:
        model.rpn.score_thresh, model.rpn.nms_thresh = to.score, to.nms
        model.rpn._post_nms_top_n = {**model.rpn._post_nms_top_n, "testing": to.detections}


def candidates(
    model: GeneralizedRCNN, images: list[Tensor], *, size: tuple[int, int] | None = None, flip: bool = False
) -> list[dict[str, Tensor]]:
    """Return all boxes above the score threshold, before any suppression, in pixels of the images as given.

    Args:
        model: a detector in evaluation form.
        images: (3, H, W) floats in 0..1.
        size: short side and limit of the long side that the images are resized to; None: the detector's own.
        flip: look at the mirror images; the boxes are turned back.

    Returns:
        `boxes` (L, 4), `labels` (L,) and `scores` (L,) of each image, without masks.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = faster_rcnn(3, "resnet18", min_size=64, score_threshold=0.9).eval()
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


def has_masks(model: nn.Module) -> bool:
    """Return whether `model`, a detector, gives masks.

    Example:
        >>> from pliant.detection import mask_rcnn
        >>> has_masks(mask_rcnn(3, "resnet18"))
        True
    """
    heads = getattr(model, "roi_heads", None)
    return isinstance(heads, RoIHeads) and bool(heads.has_mask())


def add_masks(
    model: GeneralizedRCNN, images: list[Tensor], outputs: list[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """Return `outputs` with the masks that the detector gives their boxes at its own image size.

    Args:
        model: with masks, in evaluation form.
        images: (3, H, W) floats in 0..1.
        outputs: `boxes` (L, 4) in pixels of each image, and `labels` (L,); other entries are kept.

    Returns:
        The outputs with `masks` (L, 1, H, W), 0..1.

    Example:
        >>> from pliant.detection import mask_rcnn
        >>> model = mask_rcnn(3, "resnet18", min_size=64).eval()
        >>> output = {"boxes": torch.tensor([[4.0, 8.0, 40.0, 60.0]]), "labels": torch.tensor([2])}
        >>> with torch.no_grad():
        ...     add_masks(model, [torch.zeros(3, 64, 80)], [output])[0]["masks"].shape
        torch.Size([1, 1, 64, 80])
    """
    heads = model.roi_heads
    original = [(image.shape[-2], image.shape[-1]) for image in images]
    batch, _ = model.transform(images)
    scales = [
        boxes_scale(size, resized, outputs[0]["boxes"])
        for size, resized in zip(original, batch.image_sizes, strict=True)
    ]
    boxes = [output["boxes"] * scale for output, scale in zip(outputs, scales, strict=True)]
    labels = [output["labels"] for output in outputs]
    features = model.backbone(batch.tensors)
    pooled = heads.mask_roi_pool(features, boxes, batch.image_sizes)  # (L of all images, channels, 14, 14)
    logits = heads.mask_predictor(heads.mask_head(pooled))  # (L of all images, C+1, 28, 28)
    masks = maskrcnn_inference(logits, labels)
    within = [{**output, "boxes": own, "masks": mask} for output, own, mask in zip(outputs, boxes, masks, strict=True)]
    pasted: list[dict[str, Tensor]] = model.transform.postprocess(within, batch.image_sizes, original)
    return [{**output, "masks": done["masks"]} for output, done in zip(outputs, pasted, strict=True)]


def boxes_scale(original: tuple[int, int], resized: tuple[int, int], like: Tensor) -> Tensor:
    """Return the factors on x1, y1, x2, y2 from an image of the size `original` to one of `resized`."""
    y, x = (r / o for r, o in zip(resized, original, strict=True))
    return like.new_tensor([x, y, x, y])
