# SPDX-License-Identifier: Apache-2.0
"""A detector's predictions with the options of inference: sizes, mirror images, tiles, soft suppression, averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from pliant.detection import thresholds
from pliant.inference.masks import has_masks, mask_cells, unpasted
from pliant.inference.suppression import Method, average_boxes, suppress
from pliant.inference.tiling import join_tiles, tiles
from pliant.inference.views import candidates

Output = dict[str, Tensor]
# Neighbouring tiles share this part of their side.
OVERLAP = 4


@dataclass(frozen=True)
class Inference:
    """How a detector looks at a photograph, and what becomes of overlapping boxes.

    Attributes:
        suppression: `hard`, or Soft-NMS: `linear` or `gaussian`; its threshold is the detector's.
        sigma: of the Gaussian.
        sizes: short side and limit of the long side in pixels of each size to look at; none: the detector's own.
        flip: look at the mirror images too.
        tile: side in pixels of overlapping windows to look at one by one; None: the whole photograph. A quarter of the
            side is shared by neighbours, and should be more than the largest object.
        averaging: rounds of moving each box to the average of the boxes around it; see `average_boxes`.
        averaging_iou: overlap from which a box is around another.
    """

    suppression: Method = "hard"
    sigma: float = 0.5
    sizes: tuple[tuple[int, int], ...] = ()
    flip: bool = False
    tile: int | None = None
    averaging: int = 0
    averaging_iou: float = 0.5

    @property
    def single_view(self) -> bool:
        """Whether the detector itself, in one pass, does all that is asked for."""
        return self.suppression == "hard" and not (self.sizes or self.flip or self.tile or self.averaging)


def detection_predictor(model: GeneralizedRCNN, options: Inference) -> Callable[[list[Tensor]], list[Output]]:
    """Return the function from images (3, H, W), floats in 0..1, to what is detected on each.

    Args:
        model: a detector in evaluation form.
        options: how it looks at them.

    Returns:
        A function whose outputs have `boxes` (L, 4), `labels` (L,), `scores` (L,), and, of a detector with masks,
        `cells` (L, 1, M, M) and `size` (H, W); `with_masks` makes masks of these.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = faster_rcnn(3, "resnet18", min_size=64).eval()
        >>> predict = detection_predictor(model, Inference(tile=64))
        >>> with torch.no_grad():
        ...     sorted(predict([torch.zeros(3, 64, 100)])[0])
        ['boxes', 'labels', 'scores']
    """

    def predict(images: list[Tensor]) -> list[Output]:
        if options.single_view:
            with unpasted(model):
                outputs: list[Output] = model(images)
            return outputs
        return [_predict(model, options, image) for image in images]

    return predict


def _predict(model: GeneralizedRCNN, options: Inference, image: Tensor) -> Output:
    """Detect on every view of every window, and suppress and average the boxes of all of them together."""
    height, width = image.shape[-2:]
    side = options.tile or max(height, width)
    overlap = side // OVERLAP
    windows = tiles(height, width, side, overlap)
    crops = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in windows]
    views = [(size, flip) for size in options.sizes or (None,) for flip in (False, True)[: 1 + options.flip]]
    seen = [
        (window, candidates(model, [crop], size=size, flip=flip)[0])
        for window, crop in zip(windows, crops, strict=True)
        for size, flip in views
    ]
    every, origin = join_tiles([output for _, output in seen], [window for window, _ in seen], overlap)
    output, kept = _merged(model, options, every)
    if has_masks(model):
        place = torch.div(origin[kept], len(views), rounding_mode="floor")  # the window of each box
        output["cells"] = _cells(model, crops, windows, output, place)
        output["size"] = torch.tensor((height, width))
    return output


def _merged(model: GeneralizedRCNN, options: Inference, every: Output) -> tuple[Output, Tensor]:
    """The detections among all boxes, and which of these they were."""
    limits = thresholds(model)
    found = (every["boxes"], every["scores"], every["labels"])
    kept, scores = suppress(
        *found,
        method=options.suppression,
        iou_threshold=limits.nms,
        sigma=options.sigma,
        max_detections=limits.detections,
    )
    boxes, labels = every["boxes"][kept], every["labels"][kept]
    if options.averaging:
        iou, rounds = options.averaging_iou, options.averaging
        boxes = average_boxes(boxes, labels, *found, iou_threshold=iou, rounds=rounds)
    return {"boxes": boxes, "labels": labels, "scores": scores}, kept


def _cells(
    model: GeneralizedRCNN,
    crops: list[Tensor],
    windows: list[tuple[int, int, int, int]],
    output: Output,
    place: Tensor,
) -> Tensor:
    """The masks of the detections, each from the window that it was found in."""
    cells: Tensor | None = None
    for number, (crop, (x, y, _, _)) in enumerate(zip(crops, windows, strict=True)):
        own = place == number
        if cells is None or own.any():
            boxes = output["boxes"][own] - output["boxes"].new_tensor([x, y, x, y])
            found = mask_cells(model, crop, boxes, output["labels"][own])
            cells = found.new_zeros(len(place), *found.shape[1:]) if cells is None else cells
            cells[own] = found
    assert cells is not None
    return cells
