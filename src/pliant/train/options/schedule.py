# SPDX-License-Identifier: Apache-2.0
"""How long is trained, in which steps, at which learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import Options, option


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """Length of the run, batches, optimizer and learning rate."""

    TITLE: ClassVar[str] = "optimisation"

    epochs: int = option(12, "passes over the training split", minimum=1)
    steps: int | None = option(None, "stop after so many optimizer steps instead of --epochs", minimum=1)
    batch_size: int = option(2, "images that a process takes at once", minimum=1, maximum=4096)
    accumulate: int = option(
        1, "batches of each process for a step: it has batch_size x accumulate x processes images", minimum=1
    )
    step_images: int | None = option(
        None, "images of a step in all, whatever the number of processes: sets --accumulate", minimum=1
    )
    optimizer: Literal["sgd", "adamw"] = option("sgd", "sgd with momentum, or adamw")
    lr: float = option(0.0025, "peak learning rate; detectors have the usual 0.02 for 16 images, scaled to a step of 2")
    momentum: float = option(0.9, "momentum of sgd", minimum=0)
    weight_decay: float = option(1e-4, "weight decay", minimum=0)
    offset_lr_scale: float = option(
        0.1, "factor on the learning rate of the offset branches (v2 paper: 0.1)", minimum=0
    )
    roi_offset_lr_scale: float | None = option(
        None,
        "the same for the offset branches of RoI pooling; default the papers', 0.01 for v1's single layer, else 1",
        minimum=0,
        only=("detection",),
    )
    schedule: Literal["multistep", "onecycle"] = option(
        "multistep", "multistep (the papers') or onecycle learning rate"
    )
    warmup_steps: int = option(500, "steps of warm-up; at most a tenth of the run", minimum=0)
    warmup: Literal["linear", "constant"] = option(
        "linear", "multistep: rise linearly, or stay constant at --warmup-factor"
    )
    warmup_factor: float | None = option(
        None, "factor on the learning rate that warm-up begins with; default 1 / warmup_steps", minimum=0
    )
    milestones: tuple[float, ...] = option(
        (0.667, 0.917), "multistep: divide the learning rate by 10 at these shares of the run", minimum=0
    )
    grad_clip: float = option(35.0, "largest norm of the gradient; 0 does not clip", minimum=0)
    offset_grad_clip: float = option(
        0.0, "largest norm of the gradient of the offset branches alone; 0 does not clip", minimum=0
    )
    seed: int = option(0, "seed of weights, order of images and augmentation", minimum=0)
