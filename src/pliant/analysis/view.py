# SPDX-License-Identifier: Apache-2.0
"""A model's view of a photograph: the network that holds the layers, its input, and which pixels correspond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant._imagenet import IMAGENET_MEAN, IMAGENET_STD
from pliant.analysis.nodes import looking

Detections = Mapping[str, Tensor]  # boxes (L, 4) in pixels of the photograph, labels (L,), scores (L,)


@dataclass(frozen=True)
class View:
    """What to look into for one photograph.

    Attributes:
        image: uint8 (3, h, w), the photograph.
        network: takes `input`, and holds the convolutions.
        input: (1, 3, H, W), resized, normalised and padded.
        size: height and width of the image in `input`, without padding.
        detector: the detector with a second stage that `network` is the backbone of, or None.
    """

    image: Tensor
    network: nn.Module
    input: Tensor
    size: tuple[int, int]
    detector: nn.Module | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the input per pixel of the photograph, vertically and horizontally."""
        return self.size[0] / self.image.shape[1], self.size[1] / self.image.shape[2]

    def to_input(self, points: Tensor) -> Tensor:
        """Return (..., 2) positions (y, x) in the photograph as positions in the input; centres are at integers."""
        return (points + 0.5) * points.new_tensor(self.scale) - 0.5

    def to_image(self, points: Tensor) -> Tensor:
        """Return (..., 2) positions (y, x) in the input as positions in the photograph."""
        return (points + 0.5) / points.new_tensor(self.scale) - 0.5

    def boxes_to_input(self, boxes: Tensor) -> Tensor:
        """Return (..., 4) boxes x1, y1, x2, y2, whose borders are not pixels' centres, in the input's pixels."""
        return boxes * boxes.new_tensor([self.scale[1], self.scale[0]] * 2)

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """Return (..., 4) boxes in the input's pixels in those of the photograph."""
        return boxes / boxes.new_tensor([self.scale[1], self.scale[0]] * 2)


def view_of(model: nn.Module, image: Tensor, *, input: Tensor | None = None) -> View:
    """Return the view that a model has of a photograph.

    Args:
        model: a detector or segmenter in the form of torchvision's detectors (`transform` and `backbone`), a pliant
            classifier, or any network that takes (N, 3, H, W).
        image: uint8 (3, h, w).
        input: what a network of the last kind gets, (1, 3, H, W), all of which shows the photograph. None: the
            photograph at its own size, normalised with ImageNet's mean and standard deviation.

    Raises:
        ValueError: `image` is not a uint8 (3, h, w) tensor.

    Example:
        >>> view = view_of(nn.Conv2d(3, 4, 3), torch.zeros(3, 20, 30, dtype=torch.uint8))
        >>> view.size, view.scale, tuple(view.input.shape)
        ((20, 30), (1.0, 1.0), (1, 3, 20, 30))
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        fix = "read it with pliant.data.read_image"
        fail("image", "must be uint8 of the shape (3, h, w)", f"{image.dtype} of the shape {tuple(image.shape)}", fix)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    pixels, parts = image.to(device).float() / 255, cast(Any, model)
    if input is not None:
        return View(image, model, input.to(device), (input.shape[-2], input.shape[-1]))
    with looking(model), torch.no_grad():
        if hasattr(model, "transform") and hasattr(model, "backbone"):
            batch = parts.transform([pixels])[0]
            second = model if hasattr(getattr(model, "roi_heads", None), "box_roi_pool") else None
            return View(image, parts.backbone, batch.tensors, batch.image_sizes[0], second)
        if hasattr(model, "resized") and hasattr(model, "normalised"):
            resized = parts.resized(pixels)
            return View(image, parts.backbone, parts.normalised([resized]), (resized.shape[-2], resized.shape[-1]))
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return View(image, model, ((pixels - mean) / std)[None], (image.shape[1], image.shape[2]))


def detections_of(model: nn.Module, view: View) -> Detections | None:
    """Return what a detector detects in the photograph, on the CPU, the surest first; None if it is no detector.

    Example:
        >>> model = nn.Conv2d(3, 4, 3)
        >>> detections_of(model, view_of(model, torch.zeros(3, 20, 30, dtype=torch.uint8))) is None
        True
    """
    if view.detector is None:
        return None
    with looking(model), torch.no_grad():
        found = model([view.image.to(view.input.device).float() / 255])[0]
    order = found["scores"].argsort(descending=True)
    return {name: found[name][order].cpu() for name in ("boxes", "labels", "scores")}
