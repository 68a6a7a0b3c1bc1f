# SPDX-License-Identifier: Apache-2.0
"""The bins that deformable RoI pooling has on given regions of a photograph (v1, Fig. 7)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pliant.analysis.nodes import looking
from pliant.analysis.regions import record_bins
from pliant.analysis.view import View
from pliant.nn import DeformPSRoIPool, DeformRoIPool


@torch.no_grad()
def region_bins(view: View, boxes: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Return the bins (R, Ph, Pw, 4) of regions and their weights (R, Ph, Pw), or None if pooling is not deformable.

    Args:
        view: of a detector with a second stage.
        boxes: (R, 4) corners in pixels of the view's input.
        labels: the regions' labels: position-sensitive pooling has bins for each class, of which these are shown.

    Returns:
        Corners x1, y1, x2, y2 in pixels of the view's input, in the order of `boxes`.

    Example:
        >>> from pliant.analysis import view_of
        >>> view = view_of(torch.nn.Conv2d(3, 4, 3), torch.zeros(3, 20, 30, dtype=torch.uint8))
        >>> region_bins(view, torch.tensor([[4.0, 5.0, 20.0, 15.0]]), [1]) is None  # no second stage
        True
    """
    if view.detector is None:
        return None
    detector = cast(Any, view.detector)  # torchvision's detectors have no types for their parts
    pool = detector.roi_heads.box_roi_pool
    if not any(isinstance(module, DeformPSRoIPool | DeformRoIPool) for module in pool.modules()):
        return None
    with looking(view.detector):
        features = detector.backbone(view.input)
        if isinstance(features, Tensor):
            features = {"0": features}
        found = []
        for box, label in zip(boxes, labels, strict=True):
            # One region at a time: a pyramid pools from several maps, in an order of its own.
            call = functools.partial(pool, features, [box[None].to(view.input)], [view.size])
            found.append(_of_label(record_bins(pool, call), label))
    if not found:
        return boxes.new_zeros(0, 1, 1, 4), boxes.new_zeros(0, 1, 1)
    return torch.stack([bins for bins, _ in found]), torch.stack([weights for _, weights in found])


def _of_label(records: Sequence[Any], label: int) -> tuple[Tensor, Tensor]:
    """The bins and weights of the only region; of a pooling with bins for each class those of the label."""
    records = [record for record in records if len(record.regions)]
    record = max(records, key=lambda r: int(r.bins.shape[1]))  # R-FCN pools scores by class, boxes for all alike
    return record.bins[0, label if record.bins.shape[1] > 1 else 0], record.weights[0]
