# SPDX-License-Identifier: Apache-2.0
"""Receptive fields against finite differences; effective locations and bins against moving the offsets themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torchvision.ops import roi_align

from helpers.detectors import build
from pliant.analysis import MapNode, RegionNode, effective_locations, node_responses, receptive_field
from pliant.backbones import Trunk
from pliant.detection import SecondStage, dilated_backbone, faster_rcnn, rfcn
from pliant.nn import DeformConv2d


def randomised(network: nn.Module, std: float = 0.3) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=std)
    return network


class Small(nn.Module):
    """Offsets depend on the image; an activation in place comes right after a deformable layer, as in VGG."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=(2, 1), padding=1)
        self.deform = DeformConv2d(4, 6, (3, 2), padding=(1, 1), offset_groups=2)
        self.act = nn.ReLU(inplace=True)
        self.top = DeformConv2d(6, 5, 3, padding=1, modulated=False, offset_limit=1.5)
        randomised(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.act(self.deform(self.stem(images))))


def by_finite_differences(network: nn.Module, image: Tensor, node: Any, step: float) -> Tensor:
    """The receptive field of a node by changing every value of the image, one by one."""
    found = torch.zeros_like(image[0])
    for index in torch.cartesian_prod(*(torch.arange(n) for n in image.shape[1:])).tolist():
        values = []
        for sign in (1, -1):
            moved = image.clone()
            moved[(0, *index)] += sign * step
            values.append(node_responses(network, moved, node).norm().item())
        found[tuple(index)] = (values[0] - values[1]) / (2 * step)
    return found.abs().sum(0)


@pytest.mark.parametrize(
    "node",
    [MapNode("top", (2, 5)), MapNode("top", (0, 0), channel=3), MapNode("deform", (4, 7), channel=1)],
    ids=["whole cell", "one channel", "inner layer"],
)
def test_receptive_field_is_the_finite_difference_of_the_response(node: MapNode) -> None:
    network, image = Small().double().eval(), torch.rand(1, 3, 9, 8, dtype=torch.float64)
    field = receptive_field(network, image, node)
    assert field.shape == (1, 9, 8)
    expected = by_finite_differences(network, image, node, 1e-5)
    assert int((expected > 1e-6).sum()) > 9
    torch.testing.assert_close(field[0].double(), expected, rtol=2e-3, atol=1e-4)


def test_receptive_field_of_a_batch_is_that_of_each_image() -> None:
    network, images, node = Small(), torch.rand(2, 3, 9, 8), MapNode("top", (3, 1))
    both = receptive_field(network, images, node)
    for i in range(2):
        torch.testing.assert_close(both[i], receptive_field(network, images[i : i + 1], node)[0], rtol=1e-4, atol=1e-6)


def moved_by_hand(
    network: Small, name: str, image: Tensor, node: MapNode, channel: int, cell: tuple[int, int]
) -> float:
    """The slope of the response when one offset of the layer `name` is moved, by a hook that adds to it."""
    layer, values = getattr(network, name), []
    for sign in (1, -1):

        def nudge(module: nn.Module, args: Any, raw: Tensor, sign: int = sign) -> Tensor:
            raw = raw.clone()
            raw[0, channel, cell[0], cell[1]] += sign * 1e-5
            return raw

        handle = layer.conv_offset.register_forward_hook(nudge)
        values.append(node_responses(network, image, node).norm().item())
        handle.remove()
    return (values[0] - values[1]) / 2e-5


def test_effective_locations_are_the_slope_of_the_response_by_each_offset() -> None:
    network, image = Small().double().eval(), torch.rand(1, 3, 9, 8, dtype=torch.float64)
    network.top.offset_limit = None  # the nudge is in what the branch gives: without a limit that is the offset
    node = MapNode("top", (2, 4))
    (deform, top), bins = effective_locations(network, image, node)
    assert not bins and (deform.layer, top.layer) == ("deform", "top")
    assert deform.gradient.shape == (2, 6, 5, 9, 2) and top.gradient.shape == (1, 9, 5, 9, 2)
    # Cells of the stem's map are 9/5 pixels high and 1 wide; a slope per cell is that per pixel times the stride.
    for group, tap, cell in ((0, 0, (2, 4)), (1, 5, (1, 3)), (1, 2, (3, 5)), (0, 4, (2, 3))):
        for axis, stride in enumerate((9 / 5, 1.0)):
            slope = moved_by_hand(network, "deform", image, node, group * 12 + 2 * tap + axis, cell)
            assert deform.gradient[group, tap, *cell, axis].item() * stride == pytest.approx(slope, rel=1e-3, abs=1e-6)
    # The map below `top` is 9 cells wide for 8 pixels.
    for tap in (0, 4, 7):
        slope = moved_by_hand(network, "top", image, node, 2 * tap + 1, (2, 4))
        assert top.gradient[0, tap, 2, 4, 1].item() == pytest.approx(slope * 9 / 8, rel=1e-3, abs=1e-6)
    # Other cells of the topmost layer do not matter to this one.
    others = top.magnitude.clone()
    others[:, :, 2, 4] = 0
    assert others.sum() == 0 and (top.magnitude[:, :, 2, 4] > 0).any()


def test_plain_convolutions_have_effective_locations_on_their_grid() -> None:
    network = randomised(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2, padding=(1, 0))))
    (plain,), _ = effective_locations(network, torch.rand(1, 2, 8, 9), MapNode("1", (1, 2)), layers=["1"])
    assert plain.positions[0, :, 1, 2].tolist()[0] == [1.0, 4.0]  # row 1*2 - 1, column 2*2 - 0
    assert int((plain.magnitude > 0).sum()) == 9


def pyramid_detector(roi_pool: str = "modulated") -> Any:
    torch.manual_seed(3)
    options = {"fpn_channels": 16, "roi_pool": roi_pool, "head_channels": 24, "min_size": 64}
    network = build(faster_rcnn, 3, deform="c5", **options)
    return randomised(network, 0.05).eval()


def test_a_region_has_a_receptive_field_and_bins_that_matter() -> None:
    network, images = pyramid_detector(), torch.rand(1, 3, 64, 96)
    node = RegionNode((20.0, 12.0, 70.0, 50.0))
    field = receptive_field(network, images, node)[0]
    assert field.shape == (64, 96) and field.max() > 0
    convolutions, bins = effective_locations(network, images, node)
    assert convolutions and all(layer.layer.startswith("backbone.") for layer in convolutions)
    (pool,) = bins
    assert pool.bins.shape == (1, 1, 7, 7, 4) and pool.gradient.shape == (1, 1, 7, 7, 2)
    # Move one bin by hand: its offset is in units of gamma times the region's size.
    layer = network.get_submodule(pool.layer)
    step, size = 1e-2, {0: 50.0, 1: 38.0}  # width, height
    for axis in (0, 1):  # x, y of bin (3, 4)
        values = []
        for sign in (1, -1):

            def nudge(module: nn.Module, args: Any, raw: Tensor, sign: int = sign, axis: int = axis) -> Tensor:
                raw = raw.clone()
                raw[:, axis * 49 + 3 * 7 + 4] += sign * step  # no row at the levels without the region
                return raw

            handle = layer.offset_fc.register_forward_hook(nudge)
            values.append(node_responses(network, images, node).double().norm().item())
            handle.remove()
        slope = (values[0] - values[1]) / (2 * step) / (layer.gamma * size[axis])
        assert pool.gradient[0, 0, 3, 4, 1 - axis].item() == pytest.approx(slope, rel=0.05, abs=2e-6)


def pooled_by_hand(
    features: Tensor, box: tuple[float, ...], place: tuple[int, int], shift: tuple[float, float], grid: int | None
) -> Tensor:
    """One bin of 7 x 7 of RoIAlign on a map of stride 4, moved by `shift` (y, x) pixels, sample by sample.

    With `grid` as torchvision's detectors do (not aligned, so many samples); without it aligned, as many as cells.
    """
    channels, height, width = features.shape
    starts, sizes, grids = [], [], []
    for axis in (1, 0):  # y, x
        begin, end = box[axis] / 4, box[axis + 2] / 4
        size = end - begin if grid is None else max(end - begin, 1.0)
        starts.append(begin - 0.5 if grid is None else begin)
        sizes.append(size / 7)
        grids.append(math.ceil(size / 7) if grid is None else grid)
    total = torch.zeros(channels, dtype=features.dtype)
    for sy in range(grids[0]):
        for sx in range(grids[1]):
            y = starts[0] + shift[0] / 4 + sizes[0] * (place[0] + (sy + 0.5) / grids[0])
            x = starts[1] + shift[1] / 4 + sizes[1] * (place[1] + (sx + 0.5) / grids[1])
            assert 0 <= y <= height - 1 and 0 <= x <= width - 1  # no border in this test
            for row in range(height):
                for column in range(width):
                    share = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
                    total = total + share * features[:, row, column]
    return total / (grids[0] * grids[1])


class AlignedPool(nn.Module):
    """A detector's own pooling, which calls the operator itself."""

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_sizes: Any) -> Tensor:
        return roi_align(maps["0"], boxes, 7, spatial_scale=0.25, aligned=True)


@pytest.mark.parametrize(
    ("aligned", "box"),
    [(False, (20.0, 12.0, 70.0, 50.0)), (False, (30.0, 12.0, 32.0, 50.0)), (True, (9.0, 10.0, 73.0, 55.0))],
    ids=["as torchvision's detectors", "narrower than a cell", "aligned, as many samples as cells"],
)
def test_bins_of_plain_roi_align_matter_as_much_as_moving_them_by_hand_shows(
    aligned: bool, box: tuple[float, ...]
) -> None:
    network, images = pyramid_detector(roi_pool="align").double(), torch.rand(1, 3, 64, 96, dtype=torch.float64)
    if aligned:
        network.roi_heads.box_roi_pool = AlignedPool()
    node = RegionNode(box)  # type: ignore[arg-type]
    _, (pool,) = effective_locations(network, images, node, layers=[])
    assert pool.layer == "roi_heads.box_roi_pool" and pool.gradient.shape == (1, 1, 7, 7, 2)
    x1, y1, x2, y2 = box if aligned else (box[0] + 2, box[1] + 2, max(box[2] + 2, box[0] + 6), box[3] + 2)
    torch.testing.assert_close(pool.bins[0, 0, 0, 0, :2], torch.tensor([x1, y1]))  # half a cell further if not aligned
    torch.testing.assert_close(pool.bins[0, 0, 6, 6, 2:], torch.tensor([x2, y2]))
    grid, step = None if aligned else 2, 1e-4
    for place, axis in (((3, 4), 0), ((3, 4), 1), ((0, 6), 0), ((5, 1), 1)):
        values = []
        for sign in (0, 1, -1):
            shift = (sign * step, 0.0) if axis == 0 else (0.0, sign * step)

            def moved(module: nn.Module, args: Any, output: Tensor, shift: Any = shift, place: Any = place) -> Tensor:
                by_hand = pooled_by_hand(args[0]["0"][0].detach(), box, place, shift, grid)
                if shift == (0.0, 0.0):
                    torch.testing.assert_close(by_hand, output[0, :, *place])
                output = output.clone()
                output[0, :, *place] = by_hand
                return output

            handle = network.roi_heads.box_roi_pool.register_forward_hook(moved)
            values.append(node_responses(network, images, node).norm().item())
            handle.remove()
        slope = (values[1] - values[2]) / (2 * step)
        assert slope != 0
        assert pool.gradient[0, 0, *place, axis].item() == pytest.approx(slope, rel=1e-3)


def test_nothing_watches_roi_align_after_a_head_that_raises() -> None:
    network = pyramid_detector(roi_pool="align")
    network.roi_heads.box_head = nn.Linear(3, 3)
    before = len(_get_current_function_mode_stack())
    with pytest.raises(RuntimeError):
        effective_locations(network, torch.rand(1, 3, 64, 96), RegionNode((20.0, 12.0, 70.0, 50.0)))
    assert len(_get_current_function_mode_stack()) == before
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())


def test_position_sensitive_bins_have_gradients_for_each_class() -> None:
    backbone = dilated_backbone(Trunk("resnet18", deform="c5", modulated=False), reduction_channels=16)
    stage = SecondStage(roi_pool="deform")
    network = randomised(rfcn(3, backbone, second_stage=stage, min_size=64), 0.05).eval()
    _, bins = effective_locations(network, torch.rand(1, 3, 64, 96), RegionNode((16.0, 8.0, 80.0, 56.0)))
    assert [tuple(record.gradient.shape) for record in bins] == [(1, 3, 7, 7, 2), (1, 1, 7, 7, 2)]
    assert all(record.magnitude.max() > 0 for record in bins)


def test_the_network_is_as_before_afterwards_even_when_it_raises() -> None:
    network = Small().train()
    network.stem.weight.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    with pytest.raises(RuntimeError):
        effective_locations(network, torch.rand(1, 2, 9, 8), MapNode("top", (0, 0)))
    receptive_field(network, torch.rand(1, 3, 9, 8), MapNode("top", (0, 0)))
    assert network.training and network.top.training
    assert before == {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert all(not module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_nodes_that_are_not_there_are_refused() -> None:
    network, image = Small(), torch.rand(1, 3, 9, 8)
    with pytest.raises(
        ValueError, match=r"node: must be a cell of the map of 5 x 9 of 'top'; got \(5, 0\); use \(0, 0\)"
    ):
        receptive_field(network, image, MapNode("top", (5, 0)))
    with pytest.raises(ValueError, match=r"node: must name one of 5 channels; got 5; use 0 to 4, or None for all"):
        receptive_field(network, image, MapNode("top", (0, 0), channel=5))
    with pytest.raises(ValueError, match=r"node: must name a layer of the network; got 'tip'; .* Did you mean 'top'"):
        receptive_field(network, image, MapNode("tip", (0, 0)))
    with pytest.raises(
        ValueError, match="node: a region needs a detector with a second stage; got Small; ask a detector"
    ):
        receptive_field(network, image, RegionNode((0.0, 0.0, 4.0, 4.0)))
    with pytest.raises(
        ValueError, match=r"output of the shape \(N, C, H, W\); got '1', which gives the shape \(1, 24\)"
    ):
        receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), torch.rand(1, 3, 4, 5), MapNode("1", (0, 0)))
