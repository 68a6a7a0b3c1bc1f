# SPDX-License-Identifier: Apache-2.0
"""The two functions of training: one epoch of steps, and an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from pliant._check import PliantError
from pliant.data import collate
from pliant.train.batches import Batch, Part, reading
from pliant.train.config import TrainConfig
from pliant.train.processes import gathered, summed
from pliant.train.tasks import task_of
from pliant.train.tasks.base import Examples, Metrics, Sample, predict_batch

OnStep = Callable[[dict[str, float]], bool]
OnImage = Callable[[int, int], None]


def train_one_epoch(
    model: nn.Module,
    steps: Iterable[Iterable[tuple[Part, Batch]]],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    accelerator: Accelerator,
    *,
    grad_clip: float,
    offset_grad_clip: float = 0.0,
    on_step: OnStep,
) -> bool:
    """Take one optimizer step for each of `steps`.

    The gradient of a step is the mean over its images: each batch counts by its share of them, whichever process it
    falls to, also where the last batches are smaller than the others.

    Args:
        model: in torchvision's training form, whatever its task: (images, targets) to a dict of losses.
        steps: for each step this process's parts of it with their batches, moved to the accelerator's device here.
        optimizer: as prepared by the accelerator.
        scheduler: stepped once after each optimizer step.
        accelerator: device, processes, mixed precision and gradient scaling.
        grad_clip: largest norm of the gradient; 0 does not clip.
        offset_grad_clip: the same for the offset branches alone, before that.
        on_step: called after each step with the losses of the whole step, `loss` being their sum; False ends the epoch
            early.

    Returns:
        Whether the epoch ran to its end.

    Raises:
        PliantError: a loss is not finite.
    """
    model.train()
    for step in steps:
        optimizer.zero_grad()
        losses = summed(accelerator, _backward(model, list(step), accelerator))
        _require_finite(losses)
        accelerator.unscale_gradients(optimizer)
        if offset_grad_clip:
            clip_grad_norm_(_offset_branches(optimizer), offset_grad_clip)
        if grad_clip:
            clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        if not accelerator.optimizer_step_was_skipped:  # by the scaler of fp16, which found an overflow
            scheduler.step()
        if not on_step(losses):
            return False
    return True


def _backward(model: nn.Module, parts: Sequence[tuple[Part, Batch]], accelerator: Accelerator) -> dict[str, Tensor]:
    """Add up the gradients of a step and return this process's share of its losses."""
    sums: dict[str, Tensor] = {}
    for number, (part, batch) in enumerate(parts, start=1):
        if part.seed is not None:
            torch.manual_seed(part.seed)
        # Gradients travel between the processes once a step, with the last part.
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            with accelerator.autocast():
                losses = model(*to_device(*batch, accelerator.device))
                total = torch.stack(list(losses.values())).sum()
            # The processes' gradients are averaged, not added.
            accelerator.backward(total * (part.share * accelerator.num_processes))
        for name, value in {"loss": total, **losses}.items():
            share = value.detach() * part.share
            sums[name] = sums[name] + share if name in sums else share
    return sums


def _offset_branches(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters of the offset branches, which `param_groups` puts into groups of their own."""
    groups = [group for group in optimizer.param_groups if group.get("name") in ("offset", "roi_offset")]
    return [parameter for group in groups for parameter in group["params"]]


def to_device(images: list[Tensor], targets: list[dict[str, Tensor]], device: torch.device) -> Batch:
    """Return a batch on `device`."""
    return [image.to(device) for image in images], [{k: v.to(device) for k, v in t.items()} for t in targets]


def _require_finite(losses: dict[str, float]) -> None:
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
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
    accelerator: Accelerator | None = None,
) -> Metrics:
    """Predict on every image of `dataset` and return the metric of the task.

    Args:
        model: in any mode; left in evaluation mode.
        dataset: opened for evaluation.
        device: where the model is.
        config: gives the task and the options of inference.
        workers: processes that read images.
        on_image: called with (images done, images in all).
        accelerator: of several processes, which then share the images and all return the same metric.
    """
    task = task_of(config)
    predict = task.predictor(model.eval(), config)
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    own = range(process, len(dataset), processes)
    loader: DataLoader[Sample] = DataLoader(
        dataset,  # type: ignore[arg-type]
        task.images_at_once,
        sampler=own,
        num_workers=workers,
        collate_fn=collate,
    )
    parts: list[Any] = []
    for images, targets in reading(loader):
        outputs = predict_batch(predict, images, device)
        parts += [task.part(output, target, dataset) for output, target in zip(outputs, targets, strict=True)]
        if on_image is not None:
            on_image(min(len(parts) * processes, len(dataset)), len(dataset))
    return task.score(parts if accelerator is None else gathered(accelerator, parts), dataset, config)
