# SPDX-License-Identifier: Apache-2.0
"""The two functions of training: one epoch of steps, and an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from pliant._check import PliantError
from pliant.data import DetectionDataset, collate
from pliant.evaluation import CocoMetrics, coco_results, evaluate_detections

from .batches import Batch

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
        model: a torchvision detector in training form: (images, targets) to a dict of losses.
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


@torch.no_grad()
def predict(model: nn.Module, images: Iterable[Batch], device: torch.device) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (image_id, detections on the CPU) for each image; the model is left in evaluation mode."""
    model.eval()
    for batch, targets in images:
        outputs = model([image.to(device) for image in batch])
        for target, output in zip(targets, outputs, strict=True):
            yield int(target["image_id"]), {name: tensor.cpu() for name, tensor in output.items()}


def detect(model: nn.Module, image: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Return the detections on one uint8 image (3, H, W), on the CPU."""
    batch: Batch = ([image.float() / 255], [{"image_id": torch.tensor(0)}])
    return next(predict(model, [batch], device))[1]


def evaluate(
    model: nn.Module,
    dataset: DetectionDataset,
    device: torch.device,
    *,
    workers: int = 0,
    max_detections: int = 100,
    on_image: OnImage | None = None,
) -> tuple[CocoMetrics, list[dict[str, Any]]]:
    """Detect on every image of `dataset` and return the COCO metric and the COCO results.

    Args:
        model: a torchvision detector; left in evaluation mode.
        dataset: with the transforms of evaluation.
        device: where the model is.
        workers: processes that read images.
        max_detections: detections per image that count; COCO's own metric has 100.
        on_image: called with (images done, images in all).
    """
    loader = DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=collate)
    outputs = []
    for done, output in enumerate(predict(model, loader, device), start=1):
        outputs.append(output)
        if on_image is not None:
            on_image(done, len(dataset))
    results = coco_results(outputs, dataset.categories)
    return evaluate_detections(dataset.coco_ground_truth(), results, max_detections=max_detections), results
