# SPDX-License-Identifier: Apache-2.0
"""Saliency regions: the bound on re-evaluation, and the region against all there are on an 8x8 image."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from pliant.analysis import MapNode, RegionNode, saliency_region
from pliant.backbones import Trunk
from pliant.detection import faster_rcnn, pyramid_backbone
from pliant.nn import DeformConv2d


def relative_error(network: nn.Module, image: Tensor, mask: Tensor, node: MapNode) -> float:
    """The squared change of the response relative to it, computed apart from the code under test."""
    with torch.no_grad():
        whole, masked = (network(x)[0, :, node.cell[0], node.cell[1]].double() for x in (image, image * mask))
    return float((whole - masked).square().sum() / whole.square().sum())


def toy(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1, bias=False),
        nn.Tanh(),
        DeformConv2d(3, 4, 3, padding=1, mask_scale=2.0, bias=False),
    )
    for layer in (network[0], network[2]):
        # Without negative weights the response grows with what is shown: leaving out greedily is near the best then.
        layer.weight.data.abs_()
    nn.init.normal_(network[2].conv_offset.weight, std=0.2)
    return network.eval()


def errors_of_all_choices(network: nn.Module, image: Tensor, node: MapNode) -> tuple[Tensor, Tensor]:
    """Of all 65,536 choices among the sixteen 2x2 blocks of an 8x8 image: how many blocks it has, and its error."""
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=16))).reshape(-1, 1, 4, 4)
    errors = []
    with torch.no_grad():
        whole = network(image)[:, :, node.cell[0], node.cell[1]].double()
        for chunk in choices.split(4096):
            mask = chunk.repeat_interleave(2, 2).repeat_interleave(2, 3)
            masked = network(image * mask)[:, :, node.cell[0], node.cell[1]].double()
            errors.append((masked - whole).square().sum(1) / whole.square().sum())
    return choices.sum((1, 2, 3)), torch.cat(errors)


@pytest.mark.parametrize("seed", [1, 2])
def test_region_on_a_toy_is_no_more_than_half_a_block_larger_than_the_smallest_of_all(seed: int) -> None:
    network = toy(seed)
    image, node = torch.rand(1, 1, 8, 8) + 0.2, MapNode("2", (seed, (3 * seed + 1) % 4))
    sizes, errors = errors_of_all_choices(network, image, node)
    for epsilon in (0.02, 0.2):
        region = saliency_region(network, image, node, epsilon=epsilon, block=2, budget=1000, batch=16)
        assert region.complete and region.block == 2
        area = float(region.mask.sum()) / 4  # in blocks, of which the rectangle may have cut some
        best = int(sizes[errors < epsilon].min())
        assert best >= 1 and 0 < area <= best + 0.5
        error = relative_error(network, image, region.mask.float(), node)
        assert error == pytest.approx(region.error, rel=1e-3, abs=1e-7) and error < epsilon


def test_region_of_an_additive_response_is_the_smallest_there_is() -> None:
    """Known by hand: the response is a weighted sum, so the error of a region is the square of what it leaves out."""
    network = nn.Conv2d(1, 1, (4, 4), bias=False)
    values = torch.tensor([[9.0, 1, 1, 1], [1, 1, 8, 1], [1, 1, 1, 1], [1, 7, 1, 1]])
    with torch.no_grad():
        network.weight[0, 0] = values
    image = torch.zeros(1, 1, 8, 8)
    image[:, :, 2:6, 3:7] = 1.0
    image[:, :, 0, 0] = 5.0  # not looked at
    # The sum is 37; without six ones it changes by 6: (6/37)^2 = 0.0263. Without seven: 0.0358.
    region = saliency_region(network, image, MapNode("", (2, 3)), epsilon=0.03, block=1, budget=5000)
    assert region.error == pytest.approx((6 / 37) ** 2, rel=1e-5)
    assert int(region.mask.sum()) == 16 - 6
    assert region.mask[2, 3] and region.mask[3, 5] and region.mask[5, 4] and not region.mask[0, 0]
    assert region.share == pytest.approx(10 / 64)


@pytest.mark.parametrize("budget", [8, 15, 40, 120])
def test_bound_and_budget_hold_whatever_the_budget(budget: int) -> None:
    network = toy(5)
    image, node = torch.rand(1, 1, 21, 33) + 0.2, MapNode("2", (4, 9))
    seen: list[tuple[int, int]] = []
    region = saliency_region(
        network, image, node, budget=budget, batch=3, progress=lambda done, most: seen.append((done, most))
    )
    assert region.evaluations <= budget and seen[-1] == (region.evaluations, budget)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert relative_error(network, image, region.mask.float(), node) == pytest.approx(region.error, abs=1e-6)
    assert region.error < 0.1 and region.mask.any()


def test_more_budget_gives_no_larger_region() -> None:
    network, image = toy(7), torch.rand(1, 1, 24, 40) + 0.2
    shares = [saliency_region(network, image, MapNode("2", (6, 11)), budget=b).share for b in (10, 60, 400)]
    assert shares[0] >= shares[1] >= shares[2] and shares[2] < shares[0]


def test_region_of_a_detection_keeps_scores_and_box() -> None:
    backbone = pyramid_backbone(Trunk("resnet18", deform="c5"), out_channels=16)
    network = faster_rcnn(3, backbone, head_channels=24, min_size=64).eval()
    with torch.no_grad():
        for parameter in network.roi_heads.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        network.roi_heads.box_predictor.cls_score.bias[2] = 3.0  # class 2 is the best
    image, node = torch.randn(1, 3, 64, 96), RegionNode((20.0, 10.0, 60.0, 50.0), image_size=(60, 90))
    region = saliency_region(network, image, node, epsilon=0.05, budget=30, size=(60, 90))
    assert not region.mask[60:].any() and not region.mask[:, 90:].any()

    def second_stage(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            pooled = network.roi_heads.box_roi_pool(network.backbone(x), [torch.tensor([node.box])], [(60, 90)])
            logits, deltas = network.roi_heads.box_predictor(network.roi_heads.box_head(pooled))
        return logits[0].double().softmax(0), deltas[0].double().reshape(3, 4)

    (scores, deltas), (masked_scores, masked_deltas) = second_stage(image), second_stage(image * region.mask)
    best = int(scores.argmax())
    error = (scores - masked_scores).square().sum()
    if best:
        error = error + (deltas[best] - masked_deltas[best]).square().sum()
    assert best > 0 and float(error) == pytest.approx(region.error, rel=1e-2, abs=1e-6) and region.error < 0.05


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: must be more than 0; got 0.0; use epsilon=0.1"),
        ({"budget": 7}, "budget: must be more than 7; got 7; use"),
        ({"batch": 0}, "batch: must be more than 0; got 0; use"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        saliency_region(toy(0), torch.rand(1, 1, 8, 8), MapNode("2", (0, 0)), **wrong)  # type: ignore[arg-type]
