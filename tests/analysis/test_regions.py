# SPDX-License-Identifier: Apache-2.0
"""Where bins are said to be is where the layers pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import MultiScaleRoIAlign, RoIAlign
from torchvision.transforms.v2.functional import pil_to_tensor

from pliant.analysis import OffsetWatch, draw_bins, record_bins
from pliant.detection import MultiScaleDeformRoIPool
from pliant.nn import DeformPSRoIPool, DeformRoIPool
from pliant.ops import deform_roi_pool

BOXES = torch.tensor([[1, 16.0, 20.0, 70.0, 52.0], [0, 9.0, 12.0, 33.0, 84.0]])


def randomised(layer: nn.Module, std: float) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=std)
    return layer


@pytest.mark.parametrize("modulated", [False, True])
def test_pooling_a_recorded_bin_alone_gives_what_the_layer_pooled(modulated: bool) -> None:
    """A bin as a region of its own, with a single bin: the same samples, so the same value, times the weight."""
    maps = torch.rand(2, 3, 24, 22)
    layer = randomised(DeformRoIPool((3, 2), 3, 0.25, 2, modulated=modulated, hidden_channels=7), 0.4)
    record = record_bins(layer, lambda: layer(maps, BOXES))[0]
    assert record.layer == "" and record.images.tolist() == [1, 0]
    assert torch.equal(record.regions, BOXES[:, 1:])
    pooled = layer(maps, BOXES)
    for r, i, j in ((0, 0, 0), (0, 2, 1), (1, 1, 0), (1, 0, 1)):
        region = torch.cat([BOXES[r, :1], record.bins[r, 0, i, j]])[None]
        alone = deform_roi_pool(maps, region, (1, 1), spatial_scale=0.25, sampling_ratio=2)
        torch.testing.assert_close(
            alone[0, :, 0, 0] * record.weights[r, i, j], pooled[r, :, i, j], rtol=1e-4, atol=1e-5
        )


def test_position_sensitive_bins_follow_the_official_rounding_and_have_classes() -> None:
    """Regions are rounded and include their last pixel; the unit is that size times gamma; x before y."""
    layer = DeformPSRoIPool(2, in_channels=3, output_channels=4, classes=2, spatial_scale=0.25)
    with torch.no_grad():
        layer.conv_offset.bias[8:12], layer.conv_offset.bias[12:] = 0.5, -1.0  # class 1: x 0.5, y -1
    boxes = torch.tensor([[0, 10.4, 12.5, 29.6, 31.2]])  # pixels 10 to 30 and 13 to 31: 21 x 19
    record = record_bins(layer, lambda: layer(torch.rand(1, 16, 20, 20), torch.rand(1, 3, 20, 20), boxes))[0]
    assert record.regions.tolist() == [[10, 13, 31, 32]]
    assert record.bins.shape == (1, 2, 2, 2, 4)
    torch.testing.assert_close(record.bins[0, 0, 1, 0], torch.tensor([10.0, 22.5, 20.5, 32.0]))
    shift = torch.tensor([2.1 * 0.5, -1.9, 2.1 * 0.5, -1.9])
    torch.testing.assert_close(record.bins[0, 1, 1, 0], torch.tensor([10.0, 22.5, 20.5, 32.0]) + shift)


def test_pyramids_record_every_level_and_hooks_are_gone_afterwards() -> None:
    pool = MultiScaleDeformRoIPool(["0", "1"], 2, 2, 3, canonical_scale=40, canonical_level=3, hidden_channels=4)
    maps = {"0": torch.rand(1, 3, 24, 24), "1": torch.rand(1, 3, 12, 12)}
    boxes = torch.tensor([[0.0, 0, 90, 90], [3.0, 4, 20, 30], [10.0, 10, 31, 25]])
    records = record_bins(pool, lambda: pool(maps, [boxes], [(96, 96)]))
    assert [record.layer for record in records] == ["levels.0", "levels.0"]
    assert torch.equal(records[0].regions, boxes[1:]) and torch.equal(records[1].regions, boxes[:1])
    pool(maps, [boxes], [(96, 96)])
    assert len(records) == 2


def test_arguments_by_keyword_are_recorded_and_measured() -> None:
    """A call says what it pools by place or by keyword; the scale of a call goes before the layer's."""
    maps, plain = torch.rand(2, 3, 24, 22), DeformRoIPool(2, 3, 1.0, modulated=False)
    sensitive = DeformPSRoIPool(2, in_channels=3, output_channels=1, spatial_scale=0.25)
    scores = torch.rand(2, 4, 24, 22)
    calls: list[tuple[nn.Module, Callable[[], object]]] = [
        (plain, lambda: plain(maps, boxes=BOXES, spatial_scale=0.25)),
        (sensitive, lambda: sensitive(boxes=BOXES, features=maps, scores=scores)),
    ]
    for layer, call in calls:
        assert torch.equal(record_bins(layer, call)[0].images, torch.tensor([1, 0]))
        watch = OffsetWatch(layer)
        with watch.measuring():
            call()
        assert watch.layers[""].outside == 0  # at the layer's own scale of 1 most bins of the first would be


def test_bins_of_plain_roi_align_are_where_it_reads() -> None:
    """As above, a bin alone; torchvision's default reads half a cell further, and regions are a cell wide at least."""
    maps, boxes = torch.rand(2, 3, 24, 22), torch.cat([BOXES, torch.tensor([[0, 30.0, 20.0, 31.0, 52.0]])])
    for aligned in (False, True):
        layer = nn.Sequential(RoIAlign((3, 2), 0.25, 2, aligned=aligned))
        record = record_bins(layer, lambda layer=layer: layer[0](maps, boxes))[0]  # type: ignore[misc]
        assert record.layer == "0" and record.images.tolist() == [1, 0, 0] and record.bins.shape == (3, 1, 3, 2, 4)
        assert torch.equal(record.weights, torch.ones(3, 3, 2))
        moved = torch.tensor([[2.0, 2.0, 2.0, 2.0]]) * (not aligned)
        torch.testing.assert_close(record.regions[:2], BOXES[:, 1:] + moved)
        pooled = layer[0](maps, boxes)
        for r, i, j in ((0, 0, 0), (0, 2, 1), (1, 1, 0), (2, 0, 1)):
            region = torch.cat([boxes[r, :1], record.bins[r, 0, i, j]])[None]
            alone = deform_roi_pool(maps, region, (1, 1), spatial_scale=0.25, sampling_ratio=2)
            torch.testing.assert_close(alone[0, :, 0, 0], pooled[r, :, i, j], rtol=1e-4, atol=1e-5)


def test_plain_pyramids_record_every_level_and_are_not_watched_afterwards() -> None:
    pool = MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=40, canonical_level=3)
    maps = {"0": torch.rand(1, 3, 24, 24), "1": torch.rand(1, 3, 12, 12)}
    boxes = torch.tensor([[0.0, 0, 90, 90], [3.0, 4, 20, 30], [10.0, 10, 31, 25]])
    records = record_bins(pool, lambda: pool(maps, [boxes], [(96, 96)]))
    assert [len(record.regions) for record in records] == [2, 1]
    torch.testing.assert_close(records[0].regions, boxes[1:] + 2)  # strides 4 and 8
    torch.testing.assert_close(records[1].regions, boxes[:1] + 4)
    pool(maps, [boxes], [(96, 96)])
    assert len(records) == 2


def test_a_module_that_pools_no_regions_is_refused() -> None:
    with pytest.raises(
        ValueError, match="module: must pool regions by RoIAlign or deformable RoI pooling; got Linear; give a detector"
    ):
        record_bins(nn.Linear(2, 2), lambda: None)


def share_near(picture: Path, wanted: tuple[int, int, int]) -> float:
    """The share of a picture's pixels that have about a colour."""
    pixels = pil_to_tensor(Image.open(picture).convert("RGB")).int()
    return ((pixels - torch.tensor(wanted)[:, None, None]).abs().amax(0) < 40).float().mean().item()


def test_pictures_show_regions_bins_and_masks(tmp_path: Path) -> None:
    image = torch.full((3, 60, 80), 20, dtype=torch.uint8)
    regions = torch.tensor([[10.0, 10, 50, 40]])
    bins = torch.tensor([[[[10.0, 10, 30, 40], [35.0, 10, 55, 40]]]])
    draw_bins(image, regions, bins, torch.tensor([[[0.0, 0.8]]]), tmp_path / "one.png", title="bins")
    draw_bins(image, regions, bins, torch.tensor([[[0.8, 0.8]]]), tmp_path / "both.png")
    one, both = (share_near(tmp_path / name, (255, 0, 0)) for name in ("one.png", "both.png"))
    assert both > 1.2 * one > 0  # a bin of weight 0 is not seen
    assert share_near(tmp_path / "both.png", (255, 255, 0)) > 1e-3
    draw_bins(image, regions[:0], bins[:0], torch.zeros(0, 1, 2), tmp_path / "none.png")
    assert share_near(tmp_path / "none.png", (255, 255, 0)) == 0
