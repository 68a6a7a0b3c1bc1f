# SPDX-License-Identifier: Apache-2.0
"""The bins that a detector's deformable RoI pooling has on what it detected, in pixels of the photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant.analysis import draw_bins, record_bins
from pliant.nn import DeformPSRoIPool, DeformRoIPool
from pliant.train.tasks.base import Output


@torch.no_grad()
def draw_detected_bins(model: nn.Module, image: Tensor, output: Output, path: Path, *, min_score: float) -> None:
    """Pool the detected boxes of at least `min_score` once more, and draw where the bins go.

    Raises:
        PliantError: the model has no deformable RoI pooling.
    """
    if not any(isinstance(module, DeformPSRoIPool | DeformRoIPool) for module in model.modules()):
        fix = "train one with --roi-pool deform or modulated"
        fail("draw", "bins needs a detector with deformable RoI pooling", type(model).__name__, fix)
    detector = cast(Any, model)  # torchvision's detectors have no types for their parts
    kept = output["scores"] >= min_score
    boxes, labels = output["boxes"][kept], output["labels"][kept]
    device = next(model.parameters()).device
    batch = detector.transform([image.float().to(device) / 255])[0]
    resized = batch.image_sizes[0]
    scale = boxes.new_tensor([resized[1] / image.shape[2], resized[0] / image.shape[1]]).repeat(2)
    pool, features = detector.roi_heads.box_roi_pool, detector.backbone(batch.tensors)
    records = record_bins(pool, lambda: pool(features, [(boxes * scale).to(device)], batch.image_sizes))
    # R-FCN pools scores with bins for each class, and boxes with the same for all: those of the class are shown.
    most = max(record.bins.shape[1] for record in records)
    records = [record for record in records if record.bins.shape[1] == most]
    bins = torch.cat([record.bins[:, 0] if most == 1 else _of_class(record.bins, labels) for record in records])
    weights = torch.cat([record.weights for record in records])
    regions = torch.cat([record.regions for record in records])
    draw_bins(image, regions / scale, bins / scale, weights, path)


def _of_class(bins: Tensor, labels: Tensor) -> Tensor:
    """The bins (R, Ph, Pw, 4) of each region's class."""
    return bins[torch.arange(len(labels)), labels]
