# SPDX-License-Identifier: Apache-2.0
"""One step of training whose result can be worked by hand, in one process or in each of several."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from pliant.train.batches import epoch_steps, own_parts
from pliant.train.engine import train_one_epoch


class MeanSquare(nn.Module):
    """A model whose loss is a mean over the images of its batch, and draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"loss_square": torch.stack([(self.weight * image).sum() ** 2 for image in images]).mean()}


IMAGES = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0], [0.5, 1.0, 4.0]])


def one_step(batches: int, out: Path) -> None:
    """Take one step of SGD on three images, in batches of two, and keep the weights and the loss."""
    accelerator = Accelerator(cpu=True)
    model = MeanSquare()
    model, optimizer = accelerator.prepare(model, SGD(model.parameters(), lr=1.0))
    (step,) = epoch_steps(3, 2, batches, seed=0, epoch=0)
    parts = own_parts(step, accelerator.process_index, accelerator.num_processes, seeded=False)
    read = [(part, ([IMAGES[index] for index, _ in part.keys], [])) for part in parts]
    seen: list[dict[str, float]] = []
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    train_one_epoch(model, [read], optimizer, schedule, accelerator, grad_clip=0, on_step=lambda x: not seen.append(x))
    if accelerator.is_main_process:
        weight = accelerator.unwrap_model(model).weight.tolist()
        (out / "step.json").write_text(json.dumps({"weight": weight, **seen[0]}), encoding="utf-8")
