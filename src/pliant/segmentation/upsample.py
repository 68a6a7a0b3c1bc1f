# SPDX-License-Identifier: Apache-2.0
"""Scores of coarse cells as scores of pixels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate, pad

from pliant._check import fail


def upsample_scores(scores: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    r"""Upsample scores by `stride` exactly as the official DeepLab's fixed deconvolution and crop do.

    That is a deconvolution of each class by itself with the bilinear kernel of 2s x 2s taps and stride s, of whose
    output the window from (s/2, s/2) on is kept. The centre of cell i so lies at pixel :math:`s i + (s - 1) / 2`, and

    .. math:: y(p) = \sum_i x(i) \cdot g\!\left(\frac{p - s i - (s - 1) / 2}{s}\right), \quad g(t) = \max(0, 1 - |t|)

    on each axis. Between the centres of cells this is bilinear interpolation with `align_corners=False`. In the s/2
    pixels along the border, where there is no cell beyond, all scores fade towards zero alike: labels are the same as
    with a repeated border, and the softmax is softer. It is computed as the interpolation of the map with a border of
    zeros, which needs neither a 2s x 2s kernel nor parameters.

    Args:
        scores: (N, C, h, w), a cell for each `stride` x `stride` pixels.
        stride: s, pixels per cell.
        size: (H, W) of the image; at most (s h, s w).

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: `size` is larger than the cells cover.

    Example:
        >>> import torch
        >>> upsample_scores(torch.tensor([[[[1.0, 3.0]]]]), stride=2, size=(1, 4)).tolist()
        [[[[0.5625, 1.125, 1.875, 1.6875]]]]
    """
    height, width = (stride * cells for cells in scores.shape[-2:])
    if size[0] > height or size[1] > width:
        fail("size", f"must be at most ({height}, {width}), what the cells cover", size, "pad the image to whole cells")
    bordered = pad(scores, (1, 1, 1, 1))
    upsampled: Tensor = interpolate(bordered, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return upsampled[..., stride : stride + size[0], stride : stride + size[1]]
