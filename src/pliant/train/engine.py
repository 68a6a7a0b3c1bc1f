# SPDX-License-Identifier: Apache-2.0
"""The two functions of training: one epoch of steps, and an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from pliant._check import PliantError
from pliant.data import collate

from .batches import Batch
from .config import TrainConfig
from .tasks import task_of
from .tasks.base import Examples, Metrics, Sample, predict_batch

OnStep = Callable[[dict[str, float]], bool]
OnImage = Callable[[int, int], None]


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    accelerator: Accelerator,
    *,
    grad_clip: float,
    on_step: OnStep,
) -> bool:
    """Take one optimizer step for each batch.

    Args:
        model: in torchvision's training form, whatever its task: (images, targets) to a dict of losses.
        batches: lists of images and of targets; moved to the accelerator's device here.
        optimizer: as prepared by the accelerator.
        scheduler: stepped once after each optimizer step.
        accelerator: device, mixed precision and gradient scaling.
        grad_clip: largest norm of the gradient; 0 does not clip.
        on_step: called after each step with the losses, `loss` being their sum; False ends the epoch early.

    Returns:
        Whether the epoch ran to its end.

    Raises:
        PliantError: a loss is not finite.
    """
    model.train()
    for images, targets in batches:
        with accelerator.autocast():
            losses = model(*to_device(images, targets, accelerator.device))
            total = torch.stack(list(losses.values())).sum()
        _require_finite(losses)
        optimizer.zero_grad()
        accelerator.backward(total)
        if grad_clip:
            accelerator.clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        scheduler.step()
        if not on_step({"loss": total.item(), **{name: value.item() for name, value in losses.items()}}):
            return False
    return True


def to_device(images: list[Tensor], targets: list[dict[str, Tensor]], device: torch.device) -> Batch:
    """Return a batch on `device`."""
    return [image.to(device) for image in images], [{k: v.to(device) for k, v in t.items()} for t in targets]


def _require_finite(losses: dict[str, Tensor]) -> None:
    wrong = [name for name, value in losses.items() if not math.isfinite(value.item())]
    if wrong:
        fix = "lower lr, raise warmup_steps or lower grad_clip"
        raise PliantError(f"training: losses must be finite; got {' and '.join(wrong)} not finite; {fix}")


def detect(model: nn.Module, image: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Return the predictions on one uint8 image (3, H, W), on the CPU."""
    return predict_batch(model.eval(), [image.float() / 255], device)[0]


def evaluate(
    model: nn.Module,
    dataset: Examples,
    device: torch.device,
    config: TrainConfig,
    *,
    workers: int = 0,
    on_image: OnImage | None = None,
) -> Metrics:
    """Predict on every image of `dataset` and return the metric of the task.

    Args:
        model: in any mode; left in evaluation mode.
        dataset: opened for evaluation.
        device: where the model is.
        config: gives the task and the options of test time.
        workers: processes that read images.
        on_image: called with (images done, images in all).
    """
    task = task_of(config)
    predict = task.predictor(model.eval(), config)
    loader: DataLoader[Sample] = DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=collate)  # type: ignore[arg-type]
    parts = []
    for done, (images, targets) in enumerate(loader, start=1):
        output = predict_batch(predict, images, device)[0]
        parts.append(task.part(output, targets[0], dataset))
        if on_image is not None:
            on_image(done, len(dataset))
    return task.score(parts, dataset, config)
