# SPDX-License-Identifier: Apache-2.0
"""Follows one output cell through stacked layers to all the image points that it samples (v1, Fig. 5), exactly.

A sample between the cells of a map is, by bilinear interpolation, a weighted mean of the four cells around it. So it is
followed into all four, with those weights, where the official demonstration rounds to the nearest cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pliant._check import fail, suggest
from pliant.analysis.record import OffsetField, cell_centre, nearest_cell


def sampling_points(
    fields: Sequence[OffsetField], point: tuple[float, float], *, image: int = 0, merge: bool = True
) -> Tensor:
    r"""Return the image points that the output cell at `point` samples, through one layer or several stacked ones.

    .. math:: w(q, k) = m_k(q) \sum_p w(p) \, G(q, p), \quad G(q, p) = g(q_y, p_y) \, g(q_x, p_x)

    The cell of the topmost layer has the weight 1. A sample k of a cell q has the cell's weight times its modulation.
    A sample p between the cells of the layer below gives each of the four around it its share G; what is off that map
    gets nothing, as zero padding does. With modulation 1, one offset group and nothing off a map, the weights sum to
    K^L for L layers of K taps: 729 for three 3x3 layers.

    Args:
        fields: the stack, the topmost layer first: deformable or plain layers, each standing on the output of the next.
            What lies between them in the network and works on single cells (normalisation, activation, 1x1
            convolutions, residual sums) moves no sample and is left out. Where the output of a layer is not as large
            as the input of the layer above (a feature pyramid), positions are scaled by the quotient of their strides.
        point: (y, x) in pixels of the network's input image; the output cell in which it lies is followed.
        image: index in the batch.
        merge: one row for each sample of each cell of the lowest layer (true), or for each path down to it (false).
            There are up to (4 G K)^L paths: 729 for three 3x3 layers only where all positions are whole cells.

    Returns:
        (P, 3): y, x in pixels of the input image, and the weight. Samples of the lowest layer that are outside its
        map are kept: they read zeros there.

    Raises:
        ValueError: no field, or `point` is outside the map of the first.

    Example:
        >>> from pliant.analysis import record_offsets
        >>> from pliant.nn import DeformConv2d
        >>> fields = record_offsets(DeformConv2d(3, 4, 1, modulated=False), torch.rand(1, 3, 8, 12))
        >>> sampling_points(fields, (5.0, 7.0)).tolist()  # one tap, not moved yet
        [[5.0, 7.0, 1.0]]

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), Fig. 5 and 6.
    """
    samples = _followed(fields, point, image, merge)
    return torch.cat([cell_centre(samples[:, :2], fields[-1].input_stride), samples[:, 2:]], dim=1)


def sampling_footprint(fields: Sequence[OffsetField], point: tuple[float, float], *, image: int = 0) -> Tensor:
    """Return how much the output cell at `point` takes from each cell of the map that the lowest layer reads.

    The weights of `sampling_points`, each given to the four cells around its point: what the gradient of the unit with
    respect to that map would be if every weight of every layer were 1 and offsets and modulation were constants.

    Args:
        fields: as for `sampling_points`.
        point: as for `sampling_points`.
        image: index in the batch.

    Returns:
        (H, W) of the lowest layer's input.

    Example:
        >>> from pliant.analysis import record_offsets
        >>> from pliant.nn import DeformConv2d
        >>> fields = record_offsets(DeformConv2d(3, 4, 3, padding=1, modulated=False), torch.rand(1, 3, 4, 6))
        >>> sampling_footprint(fields, (0.0, 5.0)).tolist()[:2]  # a corner: five of nine taps are off the map
        [[0.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]]
    """
    cells, weights = _shared_out(_followed(fields, point, image, True), fields[-1].input_size)
    height, width = fields[-1].input_size
    flat = torch.zeros(height * width).index_add_(0, cells[:, 0] * width + cells[:, 1], weights)
    return flat.reshape(height, width)


def stack_of(fields: Sequence[OffsetField], *, top: str | None = None, depth: int = 3) -> list[OffsetField]:
    """Return the layers that stand on one another, the topmost first, as `sampling_points` takes them.

    Below a layer stands the last of those called before it whose output is as large as its input. Where several such
    layers work side by side on maps of one size, name the stack yourself instead.

    Args:
        fields: what `record_offsets` gave, in the order of the calls.
        top: name of the topmost layer; None: the last.
        depth: at most so many layers. The v1 paper follows three.

    Raises:
        ValueError: no field, or none of the name `top`.

    Example:
        >>> from torch import nn
        >>> from pliant.analysis import record_offsets
        >>> from pliant.nn import DeformConv2d
        >>> network = nn.Sequential(*(DeformConv2d(3, 3, 3, padding=1, stride=s) for s in (1, 2, 1, 1)))
        >>> [field.layer for field in stack_of(record_offsets(network, torch.rand(1, 3, 8, 12)))]
        ['3', '2', '1']
    """
    names = [field.layer for field in fields]
    if not names:
        fail("fields", "must name one layer at least", "none", "pass the result of record_offsets")
    if top is not None and top not in names:
        fix = f"leave it out for the last.{suggest(top, names)}"
        fail("layer", f"must be one of {', '.join(names)}", repr(top), fix)
    index = len(names) - 1 if top is None else names.index(top)
    stack = [fields[index]]
    for field in reversed(fields[:index]):
        if len(stack) < depth and field.output_size == stack[-1].input_size:
            stack.append(field)
    return stack


def _followed(fields: Sequence[OffsetField], point: tuple[float, float], image: int, merge: bool) -> Tensor:
    """The samples (P, 3) of the lowest layer: y, x in cells of its input, and the weight."""
    if not fields:
        fail("fields", "must name one layer at least", "none", "pass the result of record_offsets(...)[-1:]")
    cells = nearest_cell(torch.tensor(point), fields[0].output_stride)[None]
    if not ((cells >= 0) & (cells < cells.new_tensor(fields[0].output_size))).all().item():
        rule = f"must lie on the layer's map of {fields[0].output_size} cells"
        fail("point", rule, point, "give (y, x) within the image")
    weights = torch.ones(1)
    samples = _samples(fields[0], cells, weights, image)
    for above, field in itertools.pairwise(fields):
        samples[:, :2] = _rescaled(samples[:, :2], above, field)
        cells, weights = _shared_out(samples, field.output_size)
        if merge:
            cells, weights = _merged(cells, weights, field.output_size[1])
        samples = _samples(field, cells, weights, image)
    return samples


def _samples(field: OffsetField, cells: Tensor, weights: Tensor, image: int) -> Tensor:
    """The samples (G*K*M, 3) of output cells (M, 2) that have these weights."""
    rows, columns = cells.unbind(-1)
    positions = field.cells[image][:, :, rows, columns].flatten(0, 2)  # (G*K*M, 2)
    modulated = (field.mask[image][:, :, rows, columns] * weights).flatten()
    return torch.cat([positions, modulated[:, None]], dim=1)


def _rescaled(positions: Tensor, above: OffsetField, field: OffsetField) -> Tensor:
    """Positions in input cells of the layer `above` as positions in output cells of `field`."""
    if above.input_size == field.output_size:
        return positions
    pixels = cell_centre(positions, above.input_stride)
    return (pixels + 0.5) / pixels.new_tensor(field.output_stride) - 0.5


def _shared_out(samples: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The cells (M, 2) of a map of `size` around samples (P, 3), with their shares (M,) of the samples' weights."""
    limits = samples.new_tensor(size)
    near = ((samples[:, :2] > -1) & (samples[:, :2] < limits)).all(dim=1)  # false for NaN too
    samples = samples[near]
    first = samples[:, :2].floor()
    fraction = samples[:, :2] - first
    corners, shares = [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corners.append(first + first.new_tensor([down, right]))
        vertical = fraction[:, 0] if down else 1 - fraction[:, 0]
        shares.append(samples[:, 2] * vertical * (fraction[:, 1] if right else 1 - fraction[:, 1]))
    cells, weights = torch.cat(corners), torch.cat(shares)
    kept = ((cells >= 0) & (cells < limits)).all(dim=1) & (weights != 0)
    return cells[kept].long(), weights[kept]


def _merged(cells: Tensor, weights: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The distinct cells, and the sums of their weights."""
    index, places = (cells[:, 0] * width + cells[:, 1]).unique(return_inverse=True)
    total = weights.new_zeros(len(index)).index_add_(0, places, weights)
    return torch.stack([index // width, index % width], dim=1), total
