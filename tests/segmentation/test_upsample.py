# SPDX-License-Identifier: Apache-2.0
"""Upsampling of scores, against the official deconvolution and crop as plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pliant.segmentation import upsample_scores


def bilinear_kernel(side: int) -> list[float]:
    """One axis of MXNet's bilinear initialisation of a deconvolution with `side` taps."""
    f = math.ceil(side / 2)
    c = (2 * f - 1 - f % 2) / (2 * f)
    return [1 - abs(k / f - c) for k in range(side)]


def official(scores: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """A grouped deconvolution with 2s x 2s taps and stride s, of which the window from (s/2, s/2) on is kept."""
    kernel = bilinear_kernel(2 * stride)
    n, c, h, w = scores.shape
    full = torch.zeros(n, c, (h - 1) * stride + 2 * stride, (w - 1) * stride + 2 * stride, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            for a, ka in enumerate(kernel):
                for b, kb in enumerate(kernel):
                    full[:, :, i * stride + a, j * stride + b] += ka * kb * scores[:, :, i, j]
    crop = stride // 2
    return full[:, :, crop : crop + size[0], crop : crop + size[1]]


@pytest.mark.parametrize(("stride", "size"), [(4, (8, 12)), (4, (7, 9)), (16, (30, 41)), (2, (1, 6))])
def test_it_is_the_official_deconvolution_and_crop(stride: int, size: tuple[int, int]) -> None:
    cells = tuple(-(-side // stride) for side in size)
    scores = torch.randn(2, 3, *cells, dtype=torch.float64)
    torch.testing.assert_close(upsample_scores(scores, stride, size), official(scores, stride, size))


def test_away_from_the_border_it_is_bilinear_interpolation_and_labels_are_so_everywhere() -> None:
    scores = torch.randn(1, 5, 4, 6)
    ours = upsample_scores(scores, 8, (32, 48))
    plain = interpolate(scores, scale_factor=8.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours[..., 4:-4, 4:-4], plain[..., 4:-4, 4:-4])
    assert ((ours - plain).abs()[..., :4, :] > 1e-3).any()
    assert torch.equal(ours.argmax(1), plain.argmax(1))


def test_a_border_pixel_by_hand() -> None:
    # Stride 16: the centre of cell 0 lies at 7.5, so pixel 0 is 7.5 of 16 away from it on each axis.
    score = torch.full((1, 1, 1, 1), 2.0)
    got = upsample_scores(score, 16, (16, 16))[0, 0]
    assert got[0, 0].item() == pytest.approx(2 * (1 - 7.5 / 16) ** 2)
    assert got[7, 0].item() == pytest.approx(2 * (1 - 0.5 / 16) * (1 - 7.5 / 16))
    assert got.argmax().item() in (7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8)


def test_more_pixels_than_cells_cover_are_refused() -> None:
    with pytest.raises(ValueError, match=r"size: must be at most \(16, 32\), what the cells cover; got \(17, 32\)"):
        upsample_scores(torch.zeros(1, 2, 1, 2), 16, (17, 32))
