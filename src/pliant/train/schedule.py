# SPDX-License-Identifier: Apache-2.0
"""Optimizers and learning-rate schedules of a run."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pliant.surgery import param_groups
from pliant.train.config import TrainConfig

# The one-cycle schedule as factors on the peak: from START up over the first share RISE of the run, then to FLOOR. The
# start is that of fastai and PyTorch's OneCycleLR, a 25th.
ONECYCLE_START, ONECYCLE_RISE, ONECYCLE_FLOOR = 0.04, 0.2, 1e-3


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """Return the optimizer, with the offset branches in groups of their own learning rate."""
    scale = config.offset_lr_scale
    groups = param_groups(model, config.lr, config.weight_decay, scale, roi_offset_lr_scale=config.roi_offset_lr_scale)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    return SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def build_scheduler(optimizer: Optimizer, config: TrainConfig, total_steps: int) -> LambdaLR:
    """Return the schedule, one step per optimizer step."""
    return LambdaLR(optimizer, lambda step: lr_factor(config, step, total_steps))


def lr_factor(config: TrainConfig, step: int, total_steps: int) -> float:
    """Return the factor on the learning rate at `step` (0 is the first).

    `multistep`: a warm-up (linear, or the official v1 code's constant one), then a division by 10 at each milestone.
    `onecycle`: up along a half cosine over the first fifth of the run, down along another to a thousandth.

    Example:
        >>> config = TrainConfig(data=".", warmup_steps=10, milestones=(0.5, 0.9))
        >>> [round(lr_factor(config, step, 100), 4) for step in (0, 9, 49, 50, 90)]
        [0.1, 1.0, 1.0, 0.1, 0.01]
    """
    if config.schedule == "onecycle":
        return _onecycle(step / max(1, total_steps - 1))
    rise = _warmup(config, step, min(config.warmup_steps, total_steps // 10))
    return rise * 0.1 ** sum(step >= milestone * total_steps for milestone in config.milestones)


def _warmup(config: TrainConfig, step: int, length: int) -> float:
    if step >= length:
        return 1.0
    if config.warmup == "constant":
        return 1 / length if config.warmup_factor is None else config.warmup_factor
    if config.warmup_factor is None:
        return (step + 1) / length
    return config.warmup_factor + (1 - config.warmup_factor) * step / length


def _onecycle(progress: float) -> float:
    if progress < ONECYCLE_RISE:
        return _cosine(ONECYCLE_START, 1.0, progress / ONECYCLE_RISE)
    return _cosine(1.0, ONECYCLE_FLOOR, min(1.0, (progress - ONECYCLE_RISE) / (1 - ONECYCLE_RISE)))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
