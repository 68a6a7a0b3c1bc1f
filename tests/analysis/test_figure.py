# SPDX-License-Identifier: Apache-2.0
"""Still pictures of what was measured, views of photographs, and statistics over images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from helpers.detectors import build
from pliant.analysis import (
    Asked,
    View,
    detections_of,
    draw_inside,
    effective_bins,
    network_statistics,
    region_bins,
    stack_of,
    view_of,
)
from pliant.analysis.record import record_offsets
from pliant.detection import faster_rcnn, faster_rcnn_dc5
from pliant.nn import DeformConv2d, DeformRoIPool

IMAGE = (torch.arange(3 * 48 * 96) % 251).reshape(3, 48, 96).to(torch.uint8)
BOX = torch.tensor([20.0, 8.0, 70.0, 40.0])


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(5)
    options = {"fpn_channels": 16, "roi_pool": "modulated", "head_channels": 24, "min_size": 96}
    model = build(faster_rcnn, 3, deform="c5", **options)
    for module in model.modules():
        if isinstance(module, DeformRoIPool):
            nn.init.normal_(module.offset_fc[-1].bias, std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def view(detector: nn.Module) -> View:
    return view_of(detector, IMAGE)


def test_views_relate_the_photograph_to_the_input(view: View, detector: nn.Module) -> None:
    assert view.size == (96, 192) and view.scale == (2.0, 2.0) and view.detector is detector
    assert view.input.shape == (1, 3, 96, 192)
    # Pixel 10 covers 10..11, which are pixels 20 and 21 of the input, with the centre 20.5.
    assert view.to_input(torch.tensor([10.0, 3.0])).tolist() == [20.5, 6.5]
    assert view.to_image(torch.tensor([20.5, 6.5])).tolist() == [10.0, 3.0]
    assert view.boxes_to_input(BOX).tolist() == [40.0, 16.0, 140.0, 80.0]
    assert view.boxes_to_image(view.boxes_to_input(BOX)).tolist() == BOX.tolist()
    found = detections_of(detector, view)
    assert found is not None and (found["scores"].diff() <= 0).all()
    assert detections_of(detector, View(IMAGE, view.network, view.input, view.size)) is None


def test_a_view_of_what_is_no_photograph_is_refused(detector: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"image: must be uint8 of the shape \(3, h, w\); got torch.float32 of the shape"
    ):
        view_of(detector, IMAGE.float())


def test_regions_have_their_bins_in_their_order(view: View) -> None:
    boxes = view.boxes_to_input(torch.stack([BOX, BOX - 4, BOX / 3]))
    found = region_bins(view, boxes, [1, 2, 1])
    assert found is not None
    bins, weights = found
    assert bins.shape == (3, 7, 7, 4) and weights.shape == (3, 7, 7)
    sides = (bins[..., 2:] - bins[..., :2]).mean(dim=(1, 2))  # a bin keeps the size of its part of the region
    torch.testing.assert_close(sides, (boxes[:, 2:] - boxes[:, :2]) / 7, rtol=1e-4, atol=1e-3)


def test_stacks_take_layers_that_stand_on_one_another() -> None:
    """Layers side by side on smaller maps are passed over: a pyramid's finest level stands on the trunk's."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine = DeformConv2d(3, 3, 3, stride=2, padding=1)
            self.coarse = DeformConv2d(3, 3, 3, stride=2, padding=1)
            self.top, self.bottom = DeformConv2d(3, 3, 3, padding=1), DeformConv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fine = self.fine(x)
            self.top(self.coarse(fine))
            return self.bottom(fine)

    fields = record_offsets(Pyramid(), torch.rand(1, 3, 16, 24))
    assert [field.layer for field in fields] == ["fine", "coarse", "top", "bottom"]
    assert [field.layer for field in stack_of(fields)] == ["bottom", "fine"]
    assert [field.layer for field in stack_of(fields, top="top")] == ["top", "coarse", "fine"]
    assert [field.layer for field in stack_of(fields, top="top", depth=2)] == ["top", "coarse"]


def test_a_picture_has_every_panel_of_a_detection(view: View, tmp_path: Path) -> None:
    panels = ["points", "locations", "field", "saliency", "bins"]
    asked = Asked((23.5, 44.5), BOX, 1, budget=8)
    seen: list[int] = []
    lines = draw_inside(view, asked, tmp_path / "d.png", panels=panels, progress=lambda done, most: seen.append(done))
    assert [line.split(":")[0] for line in lines] == panels and seen
    assert "error 0." in lines[3] and "49 bins" in lines[4]
    assert "samples of body.layer4.1.conv2 < body.layer4.1.conv1 < body.layer4.0.conv2" in lines[0]
    with Image.open(tmp_path / "d.png") as drawn:
        assert drawn.width > 1000


@pytest.mark.parametrize("kind", ["modulated", "align"])
def test_effective_bins_are_drawn_of_plain_and_deformable_pooling(view: View, kind: str, tmp_path: Path) -> None:
    if kind == "align":
        options = {"fpn_channels": 16, "roi_pool": "align", "head_channels": 24, "min_size": 96}
        view = view_of(build(faster_rcnn, 3, deform="c5", **options).eval(), IMAGE)
    box = view.boxes_to_input(BOX)
    found, plain = effective_bins(view, box, 1), region_bins(view, box[None], [1])
    assert found is not None and plain is not None
    assert found[1].shape == (7, 7) and found[1].min() >= 0 and found[1].max() > 0
    torch.testing.assert_close(found[0], plain[0][0], rtol=1e-4, atol=1e-3)
    lines = draw_inside(view, Asked((23.5, 44.5), BOX, 1), tmp_path / "e.png", panels=["bins", "effective-bins"])
    row, column = divmod(int(found[1].argmax()), 7)
    assert lines[1] == (
        f"effective-bins: effective bin locations: 49 bins, the strongest in row {row}, column {column}"
    )
    assert ("bins, all of weight 1.00" in lines[0]) == (kind == "align")


def test_pooling_without_bins_that_can_move_has_none_to_draw(tmp_path: Path) -> None:
    options = {"roi_pool": "max", "head_channels": 8, "rpn_channels": 8, "min_size": 96}
    model = build(faster_rcnn_dc5, 3, deform="c5", **options).eval()
    for panel in ("bins", "effective-bins"):
        with pytest.raises(
            ValueError, match="panels: bins need RoIAlign or deformable RoI pooling; got .*; train one with --roi-pool"
        ):
            draw_inside(view_of(model, IMAGE), Asked((23.5, 44.5), BOX, 1), tmp_path / "x.png", panels=[panel])


def test_a_picture_of_a_place_is_vector_graphics_where_asked(view: View, tmp_path: Path) -> None:
    asked = Asked((10.0, 60.0), layer="body.layer4.0.conv2", depth=1)
    lines = draw_inside(view, asked, tmp_path / "p.svg", panels=["points", "field"], margin=20.0)
    # A new layer on a map of 16 pixels of the photograph a cell: 16 * sqrt(2 / 3 + 2 / 3).
    assert lines[0] == "points: 9 samples of body.layer4.0.conv2, spread 18.5 pixels, of the plain grid 18.5"
    assert "<svg" in (tmp_path / "p.svg").read_text(encoding="utf-8")


def test_several_places_have_a_panel_each(tmp_path: Path) -> None:
    """What stands beside a panel is of its own place: the samples move with the brightness on the right alone."""
    layer = DeformConv2d(3, 2, 3, padding=1)
    with torch.no_grad():
        layer.conv_offset.weight[1, :, 1, 1] = 1.0  # x of the first tap
    image = torch.full((3, 20, 60), 124, dtype=torch.uint8)
    image[:, :, 30:] = 255
    places = [Asked((10.0, 10.0)), Asked((10.0, 50.0))]
    lines = draw_inside(view_of(layer, image), places, tmp_path / "two.jpg", panels=["points", "field"])
    assert [line.split(":")[0] for line in lines] == ["points", "field"] * 2
    spread = [float(line.split("spread ")[1].split()[0]) for line in lines[::2]]
    assert spread[0] < 1.5 < 2 < spread[1]
    with Image.open(tmp_path / "two.jpg") as drawn:
        assert drawn.format == "JPEG" and drawn.height > 0.4 * drawn.width  # two rows of panels three times as wide


def test_panels_that_do_not_fit_are_refused(view: View, tmp_path: Path) -> None:
    asked = Asked((10.0, 60.0))
    with pytest.raises(
        ValueError, match="panels: must be of points, .*; got 'point'; use points. Did you mean 'points'"
    ):
        draw_inside(view, asked, tmp_path / "x.png", panels=["point"])
    with pytest.raises(ValueError, match="panels: bins need a detection; got a place; give a detection"):
        draw_inside(view, asked, tmp_path / "x.png", panels=["bins"])
    bare = View(IMAGE, view.network, view.input, view.size)
    with pytest.raises(ValueError, match="detection: needs a detector with a second stage; got PyramidBackbone"):
        draw_inside(bare, Asked((10.0, 60.0), BOX), tmp_path / "x.png")


def test_statistics_are_a_table_json_and_plots(detector: nn.Module, tmp_path: Path) -> None:
    examples = [(IMAGE, BOX[None]), (IMAGE, torch.zeros(0, 4))]
    statistics = network_statistics(detector, examples)
    assert statistics.images == 2 and len(statistics.health) == 4 and len(statistics.dilation) == 16
    # Boxes count by their area in the photograph: 50 x 32 is medium. New layers have their plain dilation.
    found = {row.size: row for row in statistics.dilation if row.layer == "body.layer4.1.conv2"}
    assert found["medium"].filters > 0 and found["small"].filters == found["large"].filters == 0
    assert found["medium"].mean == found["background"].mean == 1.0
    statistics.save(tmp_path / "out")
    table = (tmp_path / "out" / "statistics.md").read_text(encoding="utf-8")
    assert "| body.layer4.1.conv2 | -" in table and "1.00 ± 0.00" in table and "9 of 9" in table
    data = json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))
    assert data["images"] == 2 and data["effective_dilation"][0]["mean"] is None
    assert data["offset_health"][0]["still_taps"] == 9
    for name in ("effective_dilation.png", "offset_health.png"):
        with Image.open(tmp_path / "out" / name) as drawn:
            assert drawn.width > 500


def test_statistics_of_nothing_are_refused(detector: nn.Module) -> None:
    with pytest.raises(ValueError, match="examples: must hold one image at least; got none; name another split"):
        network_statistics(detector, [])
