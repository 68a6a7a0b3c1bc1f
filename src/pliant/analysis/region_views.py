# SPDX-License-Identifier: Apache-2.0
"""The bins that RoI pooling has on regions of a photograph (v1, Fig. 7), and how much each counts (v2, Fig. 2)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pliant.analysis.gradients import BinGradients, effective_locations
from pliant.analysis.nodes import RegionNode, looking
from pliant.analysis.regions import RegionBins, bins_if_any
from pliant.analysis.view import View


@torch.no_grad()
def region_bins(view: View, boxes: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Return the bins (R, Ph, Pw, 4) of regions and their weights (R, Ph, Pw), or None where none are pooled.

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
    with looking(view.detector):
        features = detector.backbone(view.input)
        if isinstance(features, Tensor):
            features = {"0": features}
        found = []
        for box, label in zip(boxes, labels, strict=True):
            # One region at a time: a pyramid pools from several maps, in an order of its own.
            call = functools.partial(pool, features, [box[None].to(view.input)], [view.size])
            records = [record for record in bins_if_any(pool, call) if len(record.regions)]
            if not records:
                return None  # by another operator, such as the maximum over bins
            record = _with_classes(records)
            found.append((record.bins[0, _of_label(record, label)], record.weights[0]))
    if not found:
        return boxes.new_zeros(0, 1, 1, 4), boxes.new_zeros(0, 1, 1)
    return torch.stack([bins for bins, _ in found]), torch.stack([weights for _, weights in found])


def effective_bins(view: View, box: Tensor, label: int) -> tuple[Tensor, Tensor] | None:
    """Return the bins (Ph, Pw, 4) of a region and how much its box head depends on each (Ph, Pw); None without bins.

    Args:
        view: of a detector with a second stage.
        box: (4,) corners in pixels of the view's input.
        label: the region's label, as for `region_bins`.

    Returns:
        Corners x1, y1, x2, y2 in pixels of the view's input, and the length of the gradient of the response by the
        bin's place, per pixel of it; see `effective_locations`.

    Example:
        >>> from pliant.analysis import view_of
        >>> view = view_of(torch.nn.Conv2d(3, 4, 3), torch.zeros(3, 20, 30, dtype=torch.uint8))
        >>> effective_bins(view, torch.tensor([4.0, 5.0, 20.0, 15.0]), 1) is None  # no second stage
        True

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 2.1, Fig. 2.
    """
    if view.detector is None:
        return None
    x1, y1, x2, y2 = box.tolist()
    _, records = effective_locations(view.detector, view.input, RegionNode((x1, y1, x2, y2), view.size), layers=[])
    if not records:
        return None
    record = _with_classes(records)
    index = _of_label(record, label)
    return record.bins[0, index], record.magnitude[0, index]


_Record = TypeVar("_Record", RegionBins, BinGradients)


def _with_classes(records: Sequence[_Record]) -> _Record:
    """Of what was pooled for one region the record with bins for each class: R-FCN pools boxes for all alike."""
    return max(records, key=lambda record: record.bins.shape[1])


def _of_label(record: RegionBins | BinGradients, label: int) -> int:
    """The index of a label's bins; all labels may have the same."""
    return label if record.bins.shape[1] > 1 else 0
