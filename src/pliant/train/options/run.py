# SPDX-License-Identifier: Apache-2.0
"""The machine that a run is made on, and how often its folder is written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import Options, option


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Device, precision, readers, and what is written when."""

    TITLE: ClassVar[str] = "machine and run folder"

    device: str = option("auto", "as PyTorch names it (cpu, cuda, cuda:1, mps); auto: an accelerator if there is one")
    precision: Literal["no", "bf16", "fp16"] = option("no", "mixed precision: no, bf16, fp16")
    channels_last: bool = option(
        False, "keep images and weights with channels last in memory (fast with fp16 and bf16)"
    )
    compile: bool = option(False, "compile the backbone with torch.compile; docs/training.md says when it pays")
    workers: int = option(0, "processes that read images; 0 reads in the training process", minimum=0, maximum=256)
    eval_every: int = option(1, "evaluate each so many epochs, and at the end", minimum=1)
    checkpoint_every: int = option(500, "save a checkpoint each so many steps, and after each evaluation", minimum=1)
    log_every: int = option(10, "write the losses to metrics.jsonl each so many steps", minimum=1)
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = option(
        "none", "also send losses and metrics to this experiment tracker, which must be installed"
    )
