# SPDX-License-Identifier: Apache-2.0
"""Warps against pixels placed by hand, the networks' sizes counted by hand, and a training that learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pliant.demo import shapes as module
from pliant.demo.shapes import Settings, Shapes, deformable, fit, network, warp
from pliant.nn import DeformConv2d


def _fixed(monkeypatch: pytest.MonkeyPatch, turn: float, scale: float, shear: float, dx: float, dy: float) -> None:
    """Let the warps be these, each as a part -1..1 of its range."""
    drawn = (torch.tensor([turn, scale, shear, dx, dy]) + 1) / 2
    monkeypatch.setattr(torch, "rand", lambda rows, count, generator: drawn[:, None].expand(rows, count))


def _dot(row: int, column: int) -> torch.Tensor:
    """A bright square of 4 pixels about (row, column) in an image of 28 x 28."""
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, row - 2 : row + 2, column - 2 : column + 2] = 255
    return image


def _centre(image: torch.Tensor) -> tuple[float, float]:
    """Centre of brightness, (y, x) in pixels from the middle of the canvas."""
    weight = image[0, 0] / image.sum()
    along = torch.arange(48) - 23.5
    return float((weight.sum(1) * along).sum()), float((weight.sum(0) * along).sum())


SCALE_ONE = -(math.log(1.5) + math.log(0.6)) / (math.log(1.5) - math.log(0.6))  # where the scale is 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # The dot lies 8 above and 4 right of the middle.
        ((0.0, SCALE_ONE, 0.0, 0.0, 0.0), (-8.0, 4.0)),
        ((0.5, SCALE_ONE, 0.0, 0.0, 0.0), (4.0, 8.0)),  # a quarter turn, right to down
        ((0.0, 1.0, 0.0, 0.0, 0.0), (-12.0, 6.0)),  # 1.5 times as large
        ((0.0, SCALE_ONE, 1.0, 0.0, 0.0), (-8.0, 4.0 - 0.3 * 8)),  # x moves by 0.3 of y
        ((0.0, SCALE_ONE, 0.0, 1.0, -0.5), (-8.0 - 3.6, 4.0 + 7.2)),  # 15 % and half of it of 48 pixels
    ],
    ids=["nothing", "turn", "scale", "shear", "shift"],
)
def test_warps_by_hand(
    given: tuple[float, float, float, float, float], expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fixed(monkeypatch, *given)
    warped = warp(_dot(14 - 8, 14 + 4), 1.0, torch.Generator())
    assert _centre(warped) == pytest.approx(expected, abs=0.15)


def test_without_strength_shapes_lie_still_in_the_middle() -> None:
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    still = warp(images, 0.0, torch.Generator().manual_seed(1))
    assert torch.allclose(still[:, 0, 10:38, 10:38], images / 255, atol=1e-3)
    assert still[:, 0, :9].abs().max() == 0


def test_half_the_strength_turns_by_half_the_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    _fixed(monkeypatch, 1.0, SCALE_ONE, 0.0, 0.0, 0.0)
    # Half of 180 degrees; the scale is the geometric mean's root.
    assert _centre(warp(_dot(6, 18), 0.5, torch.Generator())) == pytest.approx((4.0, 8.0), abs=0.2)


def test_parameters_by_hand() -> None:
    convs = 9 * (16 + 16 * 32 + 32 * 32 + 32 * 64)
    plain = convs + 2 * (16 + 32 + 32 + 64) + 64 * 10 + 10
    branch = 32 * 9 * 27 + 27
    count = [
        sum(p.numel() for p in m.parameters()) for m in (network(), deformable(network(), 1), deformable(network(), 2))
    ]
    assert count == [plain, plain + branch, plain + 2 * branch]
    v1 = deformable(network(), 2, modulated=False)
    assert [name for name, m in v1.named_modules() if isinstance(m, DeformConv2d)] == ["body.2.conv", "body.3.conv"]
    assert sum(p.numel() for p in v1.parameters()) == plain + 2 * (32 * 9 * 18 + 18)


def test_training_learns_and_is_the_same_again() -> None:
    bright, dark = torch.full((96, 28, 28), 220, dtype=torch.uint8), torch.full((96, 28, 28), 90, dtype=torch.uint8)
    shapes = Shapes(torch.cat([bright, dark]), torch.arange(2).repeat_interleave(96))
    curves = []
    for _ in range(2):
        torch.manual_seed(3)
        curves.append(fit(deformable(network(), 1), shapes, shapes, 0.5, Settings(3, batch=8), seed=3))
    assert curves[0].accuracy[-1] == 1.0
    assert curves[0].accuracy == curves[1].accuracy and curves[0].loss == curves[1].loss
    assert curves[0].loss[2] < curves[0].loss[0]
    assert len(curves[0].seconds) == 3 and curves[0].seconds[0] < curves[0].seconds[1]


def test_offset_branches_learn_at_their_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    cycle = torch.optim.lr_scheduler.OneCycleLR

    def spy(optimizer: torch.optim.Optimizer, rates: list[float], **rest: int) -> torch.optim.lr_scheduler.OneCycleLR:
        seen.append([rate for group, rate in zip(optimizer.param_groups, rates, strict=True) for _ in group["params"]])
        return cycle(optimizer, rates, **rest)

    monkeypatch.setattr(module.torch.optim.lr_scheduler, "OneCycleLR", spy)
    shapes = Shapes(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    fit(deformable(network(), 2), shapes, shapes, 1.0, Settings(1, lr=1e-2, batch=2, offset_lr_scale=0.3), seed=0)
    assert sorted(seen[0])[:4] == pytest.approx([3e-3] * 4), "two branches of a weight and a bias"
    assert sorted(seen[0])[4:] == pytest.approx([1e-2] * (len(seen[0]) - 4))


def test_accuracy_counts_every_image() -> None:
    scores = nn.Sequential(nn.Flatten(), nn.Identity())
    images = torch.eye(10)[torch.arange(600) % 10][:, None, None]  # the highest score is at i % 10
    labels = torch.arange(600) % 10
    labels[[3, 300, 599]] += 1
    assert module.accuracy(scores, images, labels % 10) == pytest.approx(597 / 600)
