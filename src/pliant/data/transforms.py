# SPDX-License-Identifier: Apache-2.0
"""Transforms of training and evaluation. Resizing is not among them: torchvision's detectors resize inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

Transform = Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def train_transforms(
    *,
    crop: int | None = None,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    rotate90: bool = False,
    photometric: bool = False,
    min_visible: float = 0.4,
) -> Transform:
    """Return the transform of training: uint8 image and target in, float image in [0, 1] and target out."""
    raise NotImplementedError


def eval_transforms() -> Transform:
    """Return the transform of evaluation: uint8 image to float in [0, 1], boxes as they are."""
    raise NotImplementedError


def collate(batch: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return a batch as torchvision's detectors take it: a list of images and a list of targets."""
    raise NotImplementedError
