# SPDX-License-Identifier: Apache-2.0
"""The pieces of R-CNN feature mimicking: its settings, which boxes it takes, their crops, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, roi_align

from pliant._check import fail, suggest

CHOICES = {
    "boxes": ("foreground", "background", "all"),
    "too_few": ("fewer", "repeat"),
    "interpolation": ("bilinear", "area"),
    "feature": ("after_relu", "before_relu"),
    "reduction": ("image", "sum", "mean"),
}
IGNORED = -1
SHORTEST = 0.01  # features are 0.08 long at the least when a detector starts to train, and 10 or so later


@dataclass(frozen=True)
class MimicOptions:
    """The settings of feature mimicking; each default is what the paper says, or the plain reading where it is silent.

    Attributes:
        weight: factor of the mimicking loss (paper: 0.1).
        classifier_weight: factor of the R-CNN classifier's cross-entropy (paper: 0.1).
        boxes: which sampled proposals: `foreground` (paper), `background`, or `all` without regard to either.
        boxes_per_image: most boxes of an image, drawn at random (paper: 32).
        crop_size: side in pixels of the square that a box is resized to (paper: 224); a multiple of 32, and 64 at
            least: trained batch norm needs more than one cell of the last map.
        iou: a proposal with this overlap with a ground-truth box, or more, is foreground (not stated; Detectron: 0.5).
        ground_truth: whether the ground-truth boxes, which the detector adds to its proposals, are drawn from too.
        too_few: with fewer boxes than `boxes_per_image` take `fewer`, or `repeat` some to make up the number.
        interpolation: `bilinear` takes one sample for each pixel of the crop, at its centre; `area` averages over as
            many samples as the pixel covers in the image, which does not alias where a large box shrinks.
        stop_gradient: whether the R-CNN feature is a constant of the mimicking loss. If not, both features move
            towards one another; the classifier trains the branch in either case.
        feature: the second fc layer's output `after_relu` (what the detector's own classifier sees) or `before_relu`.
        reduction: the sum over an image's boxes, averaged over the images (`image`); the `sum` over all boxes of the
            batch; or their `mean`.
        chunk: crops in one pass of the backbone, which are computed anew in the backward pass so that the memory is
            that of one chunk; None: all in one pass, kept in memory.
    """

    weight: float = 0.1
    classifier_weight: float = 0.1
    boxes: str = "foreground"
    boxes_per_image: int = 32
    crop_size: int = 224
    iou: float = 0.5
    ground_truth: bool = True
    too_few: str = "fewer"
    interpolation: str = "bilinear"
    stop_gradient: bool = False
    feature: str = "after_relu"
    reduction: str = "image"
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                fix = f"choose one of {', '.join(choices)}.{suggest(str(value), choices)}"
                fail(f"mimic {name}", "must be one of its choices", repr(value), fix)
        for name in ("weight", "classifier_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                fail(f"mimic {name}", "must be 0 or more", getattr(self, name), "the paper has 0.1")
        if not 0 < self.iou <= 1:
            fail("mimic iou", "must be above 0 and at most 1", self.iou, "use 0.5")
        if self.crop_size < 64 or self.crop_size % 32:
            rule = "must be a multiple of 32 pixels, 64 at least"
            fail("mimic crop_size", rule, self.crop_size, "use 224")
        for name in ("boxes_per_image", "chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                fail(f"mimic {name}", "must be at least 1", getattr(self, name), "use e.g. 32")


def match_boxes(
    proposals: Tensor, boxes: Tensor, labels: Tensor, *, iou: float, background_iou: float, ground_truth: bool
) -> Tensor:
    """Return the label of each proposal: that of the box it overlaps most with, 0 for background, -1 for neither.

    Args:
        proposals: (R, 4) as x1, y1, x2, y2 in pixels.
        boxes: ground truth (L, 4).
        labels: of the ground truth (L,), 1..C.
        iou: overlap from which a proposal is foreground.
        background_iou: overlap below which it is background.
        ground_truth: False gives -1 to proposals that are a ground-truth box themselves.
    """
    if not len(boxes):
        return labels.new_zeros(len(proposals))
    overlap, nearest = box_iou(boxes, proposals).max(dim=0)
    neither = torch.where(overlap < background_iou, 0, IGNORED)
    matched = torch.where(overlap >= iou, labels[nearest], neither)
    if not ground_truth:
        matched[(proposals[:, None] == boxes).all(dim=-1).any(dim=-1)] = IGNORED
    return matched


def draw_boxes(labels: Tensor, options: MimicOptions) -> Tensor:
    """Return the places (K,) in `labels` of the boxes that one image gives to mimicking, drawn at random."""
    wanted = {"foreground": labels > 0, "background": labels == 0, "all": labels != IGNORED}[options.boxes]
    places = wanted.nonzero().flatten()
    places = places[torch.randperm(len(places), device=places.device)[: options.boxes_per_image]]
    missing = options.boxes_per_image - len(places)
    if options.too_few == "repeat" and len(places) and missing:
        again = torch.randint(len(places), (missing,), device=places.device)
        places = torch.cat([places, places[again]])
    return places


def crop_boxes(images: Tensor, rois: Tensor, options: MimicOptions) -> Tensor:
    """Return the boxes as square images (K, 3, S, S), S = `crop_size`.

    Args:
        images: the detector's own input (N, 3, H, W): resized, normalised and padded.
        rois: (K, 5): image, x1, y1, x2, y2 in pixels of `images`; the crop covers exactly the box.
        options: `crop_size` and `interpolation`.
    """
    samples = 1 if options.interpolation == "bilinear" else 0  # 0: as many as a pixel of the crop covers
    with torch.no_grad():
        side = (options.crop_size, options.crop_size)
        crops: Tensor = roi_align(images, rois, side, sampling_ratio=samples, aligned=True)
    return crops


def mimic_loss(teacher: Tensor, student: Tensor, *, images: int, reduction: str) -> Tensor:
    r"""Return :math:`L = \sum_b 1 - \cos(f_{RCNN}(b), f_{FRCNN}(b))`, divided as `reduction` says.

    The gradient of the cosine is as large as a feature is short. One shorter than 0.01, of a region where next to all
    units are off, is divided by 0.01 in place of its length, so that no box has a gradient above 100.

    Args:
        teacher: f_RCNN (K, D), features of the crops.
        student: f_FRCNN (K, D), the detector's features of the same boxes.
        images: in the batch, those without boxes included.
        reduction: `sum`, `image` (the sum over `images`) or `mean` (over the boxes); 0 where there are none.

    Example:
        >>> f = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> g = torch.tensor([[4.0, 3.0], [0.0, 2.0]])
        >>> round(mimic_loss(f, g, images=2, reduction="sum").item(), 4)  # (1 - 24/25) + (1 - 0)
        1.04
    """
    ours, theirs = (functional.normalize(f.float(), dim=1, eps=SHORTEST) for f in (student, teacher))
    distance = (1 - (ours * theirs).sum(dim=1)).sum()
    return distance / {"sum": 1, "image": images, "mean": max(len(teacher), 1)}[reduction]
