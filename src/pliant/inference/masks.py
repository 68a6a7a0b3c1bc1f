# SPDX-License-Identifier: Apache-2.0
"""Masks as the mask head gives them, a small map for each box, and a few at a time at the size of the photograph.

A hundred masks of a photograph of 12 megapixels are 5 GB of floats; the maps of their boxes are 300 KB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes

# Values of masks that are held at once: 64 MB.
_PASTED_VALUES = 2**24


def has_masks(model: nn.Module) -> bool:
    """Return whether `model`, a detector, gives masks.

    Example:
        >>> from pliant.detection import mask_rcnn
        >>> has_masks(mask_rcnn(3, "resnet18"))
        True
    """
    heads = getattr(model, "roi_heads", None)
    return isinstance(heads, RoIHeads) and bool(heads.has_mask())


@contextmanager
def unpasted(model: GeneralizedRCNN) -> Iterator[None]:
    """Let a detector give `cells` (L, 1, M, M), the masks in the frames of their boxes, and `size` for `masks`."""

    def postprocess(
        results: list[dict[str, Tensor]], resized: Sequence[tuple[int, int]], original: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        outputs = []
        for result, now, size in zip(results, resized, original, strict=True):
            output = {**result, "boxes": resize_boxes(result["boxes"], now, size)}
            if "masks" in output:
                output["cells"], output["size"] = output.pop("masks"), torch.tensor(size)
            outputs.append(output)
        return outputs

    model.transform.postprocess = postprocess
    try:
        yield
    finally:
        del model.transform.postprocess  # that of its class again


def mask_cells(model: GeneralizedRCNN, image: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the masks (L, 1, M, M), 0..1, that a detector gives boxes of an image, in the frames of the boxes.

    Args:
        model: with masks, in evaluation form.
        image: (3, H, W) floats in 0..1, which the detector resizes.
        boxes: (L, 4) corners in pixels of the image.
        labels: (L,), 1..C.

    Example:
        >>> from pliant.detection import mask_rcnn
        >>> model = mask_rcnn(3, "resnet18", min_size=64).eval()
        >>> boxes, labels = torch.tensor([[4.0, 8.0, 40.0, 60.0]]), torch.tensor([2])
        >>> with torch.no_grad():
        ...     mask_cells(model, torch.zeros(3, 64, 80), boxes, labels).shape
        torch.Size([1, 1, 28, 28])
    """
    heads = model.roi_heads
    batch, _ = model.transform([image])
    (resized,) = batch.image_sizes
    scaled = resize_boxes(boxes, (image.shape[-2], image.shape[-1]), resized)
    pooled = heads.mask_roi_pool(model.backbone(batch.tensors), [scaled], batch.image_sizes)  # (L, channels, 14, 14)
    logits = heads.mask_predictor(heads.mask_head(pooled))  # (L, C+1, M, M)
    cells: Tensor = maskrcnn_inference(logits, [labels])[0]
    return cells


def with_masks(output: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield a detector's output in parts of a few detections, their `masks` (l, 1, H, W) in the place of `cells`.

    A part's masks are 64 MB, or one mask where that is larger. As in torchvision, a box's end pixel is inside.

    Args:
        output: of `detection_predictor`: `cells` (L, 1, M, M) for `boxes` (L, 4), and `size`, the photograph's H and W;
            the other entries are cut into parts as well.

    Example:
        >>> output = {"boxes": torch.tensor([[0.0, 0, 2, 2]]), "cells": torch.ones(1, 1, 28, 28)}
        >>> parts = with_masks({**output, "size": torch.tensor([3, 5])})
        >>> [(part["masks"][0, 0] > 0.5).int().tolist() for part in parts]
        [[[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]]
    """
    height, width = output["size"].tolist()
    few = max(1, _PASTED_VALUES // (height * width))
    for start in range(0, len(output["boxes"]), few):
        part = {name: values[start : start + few] for name, values in output.items() if name != "size"}
        part["masks"] = paste_masks_in_image(part.pop("cells"), part["boxes"], (height, width))
        yield part
