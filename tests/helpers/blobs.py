# SPDX-License-Identifier: Apache-2.0
"""One synthetic picture with two bright objects, and a few steps of training on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PICTURE = torch.full((3, 64, 80), 0.4) + 0.1 * torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0))
PICTURE[:, 8:40, 6:38] = 0.95
PICTURE[:, 30:62, 46:62] = 0.05
TRUTH = {"boxes": torch.tensor([[6.0, 8, 38, 40], [46, 30, 62, 62]]), "labels": torch.tensor([1, 2])}


def losses_of_training(model: nn.Module, steps: int, lr: float = 2e-3) -> tuple[dict[str, float], dict[str, float]]:
    """Return the losses of the first and of the last step."""
    torch.manual_seed(4)
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    seen = []
    for _ in range(steps):
        losses: dict[str, Tensor] = model([PICTURE], [TRUTH])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        seen.append({name: loss.item() for name, loss in losses.items()})
    return seen[0], seen[-1]
