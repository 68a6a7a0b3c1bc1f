# SPDX-License-Identifier: Apache-2.0
"""Follows one output cell through stacked deformable layers to all the image points that it samples (v1, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pliant._check import fail
from pliant.analysis.record import OffsetField, nearest_cell


def sampled_points(fields: Sequence[OffsetField], point: tuple[float, float], *, image: int = 0) -> Tensor:
    """Return the image points that the output cell at `point` samples, through one layer or several stacked ones.

    Args:
        fields: the layers to go through, the topmost first. Each sample of a layer is followed into the cell of the
            next field in which it lies, as in the paper's Fig. 5; samples outside that map are dropped.
        point: (y, x) in pixels of the network's input image.
        image: index in the batch.

    Returns:
        (P, 3): y, x in pixels and the product of the modulations on the way. P is at most (G * K) ** len(fields).

    Raises:
        ValueError: no field, or `point` is outside the map of the first.

    Example:
        >>> from pliant.analysis import record_offsets
        >>> from pliant.nn import DeformConv2d
        >>> fields = record_offsets(DeformConv2d(3, 4, 1, modulated=False), torch.rand(1, 3, 8, 12))
        >>> sampled_points(fields, (5.0, 7.0)).tolist()  # one tap, not moved yet
        [[5.0, 7.0, 1.0]]

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), Fig. 5.
    """
    if not fields:
        fail("fields", "must name one layer at least", "none", "pass the result of record_offsets(...)[-1:]")
    top = nearest_cell(torch.tensor(point), fields[0].output_stride)[None]
    if not _on_map(top, fields[0]).item():
        size = tuple(fields[0].positions.shape[3:5])
        fail("point", f"must lie on the layer's map of {size} cells", point, "give (y, x) within the image")
    points = torch.cat([torch.tensor([point]), torch.ones(1, 1)], dim=1)  # (P, 3)
    for field in fields:
        points = _through(field, points, image)
    return points


def _through(field: OffsetField, points: Tensor, image: int) -> Tensor:
    """Replace each point by the samples of the cell in which it lies."""
    cells = nearest_cell(points[:, :2], field.output_stride)
    kept = _on_map(cells, field)
    rows, columns = cells[kept].unbind(-1)
    samples = field.positions[image][:, :, rows, columns].flatten(0, 1)  # (G*K, P, 2)
    weights = field.mask[image][:, :, rows, columns].flatten(0, 1) * points[kept, 2]  # (G*K, P)
    return torch.cat([samples, weights[..., None]], dim=-1).flatten(0, 1)


def _on_map(cells: Tensor, field: OffsetField) -> Tensor:
    size = cells.new_tensor(field.positions.shape[3:5])
    return ((cells >= 0) & (cells < size)).all(dim=-1)
