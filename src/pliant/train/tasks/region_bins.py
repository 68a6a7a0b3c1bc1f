# SPDX-License-Identifier: Apache-2.0
"""The bins that a detector's deformable RoI pooling has on what it detected, in pixels of the photograph."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from pliant._check import fail
from pliant.analysis import draw_bins, region_bins, view_of
from pliant.nn import DeformPSRoIPool, DeformRoIPool
from pliant.train.tasks.base import Output


def draw_detected_bins(model: nn.Module, image: Tensor, output: Output, path: Path, *, min_score: float) -> None:
    """Pool the detected boxes of at least `min_score` once more, and draw where the bins go.

    Raises:
        PliantError: the model has no deformable RoI pooling.
    """
    kept = output["scores"] >= min_score
    boxes, view = output["boxes"][kept], view_of(model, image)
    found = region_bins(view, view.boxes_to_input(boxes), output["labels"][kept].tolist())
    if found is None or not any(isinstance(module, DeformPSRoIPool | DeformRoIPool) for module in model.modules()):
        fix = "train one with --roi-pool deform or modulated"
        fail("draw", "bins needs a detector with deformable RoI pooling", type(model).__name__, fix)
    bins, weights = found
    draw_bins(image, boxes, view.boxes_to_image(bins), weights, path)
