# SPDX-License-Identifier: Apache-2.0
"""A small classifier of warped shapes, plain or deformable, and its training: what the demonstration's chart compares.

The study in `benchmarks/accuracy` uses the same functions, so that its rows and the demonstration measure one thing.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from pliant.surgery import convert, param_groups

CANVAS = 48
BATCH = 64
# The warp at strength 1; at strength s every range is s times as wide (of the scale: its logarithm).
TURN, SCALE, SHEAR, SHIFT = 180.0, (0.6, 1.5), 0.3, 0.15
TEST_WARP_SEED = 20170317


@dataclass(frozen=True)
class Shapes:
    """Grey shapes (N, 28, 28) uint8 with their classes (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Settings:
    """How a network is trained: AdamW and one cycle. `offset_lr_scale` multiplies the rate of the offset branches."""

    epochs: int
    lr: float = 4e-3
    weight_decay: float = 1e-2
    offset_lr_scale: float = 0.3
    batch: int = BATCH


@dataclass
class Curve:
    """Top-1 accuracy on the test shapes, training loss, and CPU seconds of training so far, after each epoch."""

    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def warp(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return each shape turned, scaled, sheared and moved at random, (N, 1, 48, 48) float32 in 0..1.

    At strength 1 a shape is turned by any angle, scaled by 0.6 to 1.5 (evenly in the logarithm), sheared by up to 0.3
    and moved by up to 15 % of the canvas each way. At strength 0 it lies upright in the middle.

    Args:
        images: (N, h, w) uint8.
        strength: 0 to 1; the ranges are so many times as wide.
        generator: where the warps are drawn from.
    """
    count = len(images)
    turn, scale, shear, dx, dy = (strength * (2 * torch.rand(5, count, generator=generator) - 1)).unbind()
    angle = turn * math.radians(TURN)
    middle, half = (math.log(SCALE[1]) + math.log(SCALE[0])) / 2, (math.log(SCALE[1]) - math.log(SCALE[0])) / 2
    size = torch.exp(strength * middle + half * scale)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (N, 2, 2)
    sheared = torch.eye(2).repeat(count, 1, 1)
    sheared[:, 0, 1] = SHEAR * shear
    back = torch.linalg.inv(turned @ sheared * size[:, None, None])
    shift = 2 * SHIFT * torch.stack([dx, dy], 1)[..., None]  # of half a canvas
    pixels = CANVAS / torch.tensor([images.shape[2], images.shape[1]], dtype=torch.float32)
    theta = torch.cat([back, -back @ shift], 2) * pixels[None, :, None]
    grid = F.affine_grid(theta, [count, 1, CANVAS, CANVAS], align_corners=False)
    return F.grid_sample(images[:, None].float() / 255, grid, align_corners=False)


def network(width: float = 1.0, classes: int = 10) -> nn.Sequential:
    """Return four 3x3 convolutions of 16, 32, 32, 64 channels times `width`, each with normalisation, and a linear one.

    The last two, `body.2.conv` and `body.3.conv`, look at maps of 12 x 12; the last one's stride is 2.
    """
    channels = [1, *(round(width * c) for c in (16, 32, 32, 64))]
    blocks = [_block(channels[i], channels[i + 1], stride) for i, stride in enumerate((2, 2, 1, 2))]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))
    return nn.Sequential(OrderedDict(body=nn.Sequential(*blocks), head=head))


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs), act=nn.ReLU(inplace=True)))


def deformable(model: nn.Sequential, layers: int, **options: Any) -> nn.Sequential:
    """Make the last `layers` (1 to 4) convolutions deformable; `options` are those of `pliant.convert`."""
    names = "|".join(str(3 - i) for i in range(layers))
    return convert(model, rf"body\.({names})\.conv", **options)


def fit(
    model: nn.Module, train: Shapes, test: Shapes, strength: float, settings: Settings, *, seed: int,
    on_epoch: Callable[[Curve], None] = lambda curve: None,
) -> Curve:  # fmt: skip
    """Train on shapes that are warped anew in each epoch; test on warps that are the same for every network and seed.

    Args:
        model: takes (N, 1, 48, 48), returns the classes' scores.
        train: shapes to learn from.
        test: shapes to count on.
        strength: of the warps of both, see `warp`.
        settings: epochs, rates.
        seed: of the order and the warps of the training shapes.
        on_epoch: called with the curve so far after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    still = warp(test.images, strength, torch.Generator().manual_seed(TEST_WARP_SEED))
    groups = param_groups(
        model, lr=settings.lr, weight_decay=settings.weight_decay, offset_lr_scale=settings.offset_lr_scale
    )
    optimizer = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in groups]
    steps = len(train.images) // settings.batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=settings.epochs * steps)
    curve, seconds = Curve(), 0.0
    for _ in range(settings.epochs):
        started, losses = time.process_time(), 0.0
        model.train()
        order = torch.randperm(len(train.images), generator=generator)
        for step in range(steps):
            chosen = order[step * settings.batch : (step + 1) * settings.batch]
            scores = model(warp(train.images[chosen], strength, generator))
            loss = F.cross_entropy(scores, train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            losses += loss.item()
        seconds += time.process_time() - started
        curve.accuracy.append(accuracy(model, still, test.labels))
        curve.loss.append(losses / steps)
        curve.seconds.append(seconds)
        on_epoch(curve)
    return curve


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of the images whose highest score is that of their class."""
    model.eval()
    right = [
        (model(part).argmax(1) == wanted).sum()
        for part, wanted in zip(images.split(256), labels.split(256), strict=True)
    ]
    return float(torch.stack(right).sum()) / len(labels)
