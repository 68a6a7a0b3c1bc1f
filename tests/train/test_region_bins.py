# SPDX-License-Identifier: Apache-2.0
"""The bins that `pliant predict --draw bins` draws, in pixels of the photograph and for the class that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.detectors import build
from pliant.detection import dilated_backbone, faster_rcnn, rfcn
from pliant.train.tasks import detection

IMAGE = torch.randint(0, 256, (3, 100, 128), dtype=torch.uint8)
OUTPUT = {
    "boxes": torch.tensor([[10.0, 20.0, 80.0, 90.0], [40.0, 10.0, 110.0, 45.0], [0.0, 0.0, 9.0, 9.0]]),
    "labels": torch.tensor([2, 1, 1]),
    "scores": torch.tensor([0.9, 0.6, 0.1]),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What the picture is made of."""
    seen: dict[str, Tensor] = {}

    def keep(image: Tensor, regions: Tensor, bins: Tensor, weights: Tensor, path: Path) -> None:
        seen.update(regions=regions, bins=bins, weights=weights)

    monkeypatch.setattr(detection, "draw_bins", keep)
    return seen


def test_bins_of_a_pyramid_are_in_pixels_of_the_photograph(drawn: dict[str, Tensor], tmp_path: Path) -> None:
    """The image is resized to 160 x 205 pixels; a shift of 0.5 of a tenth of the width is in units of the box."""
    options: dict[str, Any] = {"strides": (8, 16), "fpn_channels": 8, "head_channels": 8, "min_size": 160}
    model = build(faster_rcnn, 3, roi_pool="modulated", **options).eval()
    with torch.no_grad():
        bias = model.roi_heads.box_roi_pool.levels[0].offset_fc[-1].bias
        bias[:49], bias[98 + 3] = 0.5, 20.0
    detection.TASK.draw_bins(model, IMAGE, OUTPUT, tmp_path / "a.png", min_score=0.5)
    assert torch.equal(drawn["regions"], OUTPUT["boxes"][:2])
    width, height = 70 / 7, 70 / 7
    expected = torch.tensor([10 + 3 * width + 0.05 * 70, 20 + 2 * height, 10 + 4 * width + 0.05 * 70, 20 + 3 * height])
    torch.testing.assert_close(drawn["bins"][0, 2, 3], expected, rtol=1e-3, atol=0.2)
    assert drawn["weights"].flatten(1)[:, 3].min() > 0.99
    torch.testing.assert_close(drawn["weights"][:, 1:], torch.full((2, 6, 7), 0.5))

    detection.TASK.draw_bins(model, IMAGE, OUTPUT, tmp_path / "a.png", min_score=0.95)
    assert drawn["regions"].shape == (0, 4)
    assert drawn["bins"].shape == (0, 1, 1, 4)


def test_bins_of_rfcn_are_those_of_the_class(drawn: dict[str, Tensor], tmp_path: Path) -> None:
    """Class 2's bins are moved down by a fifth, class 1's stay; those that the boxes are pooled with are not shown."""
    backbone = dilated_backbone("resnet18", reduction_channels=8)
    model = build(rfcn, 3, backbone, roi_pool="deform", min_size=100, max_size=128, anchor_sizes=(32,)).eval()
    with torch.no_grad():
        pool = model.get_submodule("roi_heads.box_roi_pool")
        pool.score_pool.conv_offset.bias.view(3, 2, 49)[2, 1] = 2.0  # type: ignore[operator,union-attr]
        pool.box_pool.conv_offset.bias.fill_(5.0)  # type: ignore[operator,union-attr]
    detection.TASK.draw_bins(model, IMAGE, OUTPUT, tmp_path / "a.png", min_score=0.5)
    assert drawn["bins"].shape == (2, 7, 7, 4)
    assert torch.equal(drawn["regions"], OUTPUT["boxes"][:2])
    torch.testing.assert_close(drawn["bins"][:, 0, 0, :2], torch.tensor([[10.0, 20 + 0.2 * 71], [40.0, 10.0]]))
