# SPDX-License-Identifier: Apache-2.0
"""One synthetic picture with two objects, and a few steps of training: of a detector, or of its second stage alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

PICTURE = torch.full((3, 64, 80), 0.4) + 0.1 * torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))
PICTURE[:, 8:40, 6:38] = 0.95
PICTURE[:, 30:62, 46:62] = 0.05
TRUTH = {"boxes": torch.tensor([[6.0, 8, 38, 40], [46, 30, 62, 62]]), "labels": torch.tensor([1, 2])}


def losses_of_training(model: nn.Module, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the losses of the first and of the last step of training on the picture."""
    return _train(model, steps, lambda: model([PICTURE], [TRUTH]))


def losses_of_the_second_stage(
    heads: nn.Module, channels: int, steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the losses of the first and of the last step of training `heads` on one map of stride 16 and proposals.

    The proposals are boxes around two objects and in between, always the same: what the first stage would learn
    meanwhile does not change the task.
    """
    generator = torch.Generator().manual_seed(3)
    maps = {"c5": 2 * torch.randn(1, channels, 16, 20, generator=generator)}
    target = {"boxes": 4 * TRUTH["boxes"], "labels": TRUTH["labels"]}
    near = target["boxes"].repeat(8, 1) + torch.rand(16, 4, generator=generator) * 24 - 12
    corners = torch.rand(24, 2, generator=generator) * 200
    proposals = torch.cat([near, torch.cat([corners, corners + 50], dim=1)])

    def losses() -> dict[str, Tensor]:
        found: dict[str, Tensor] = heads(maps, [proposals], [(256, 320)], [target])[1]
        return found

    return _train(heads, steps, losses)


def _train(
    model: nn.Module, steps: int, losses: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, float], dict[str, float]]:
    torch.manual_seed(4)
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    seen = []
    for _ in range(steps):
        step = losses()
        optimizer.zero_grad()
        torch.stack(list(step.values())).sum().backward()
        optimizer.step()
        seen.append({name: loss.item() for name, loss in step.items()})
    return seen[0], seen[-1]


def without_gradient(model: nn.Module) -> list[str]:
    """Return the trained parameters that one training step on the picture gives no gradient, or one not finite."""
    torch.manual_seed(5)
    losses: dict[str, Tensor] = model.train()([PICTURE, PICTURE.flip(2)], [TRUTH, TRUTH])
    torch.stack(list(losses.values())).sum().backward()
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    return [name for name, grad in trained if grad is None or not grad.isfinite().all() or not grad.any()]
