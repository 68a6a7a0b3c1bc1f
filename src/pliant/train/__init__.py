# SPDX-License-Identifier: Apache-2.0
"""Run folders, the training loop, checkpoints, and resuming a run exactly where it stopped.

`TrainConfig` needs nothing but Python, so that the command line can print its options anywhere. The other names need
torchvision and accelerate, which are imported when the first of them is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pliant.train.config import TrainConfig

if TYPE_CHECKING:
    from pliant.train.engine import evaluate, train_one_epoch
    from pliant.train.model import build_model, load_run
    from pliant.train.run import resume, train, train_or_resume
    from pliant.train.tasks import task_of

_LATER = {
    "engine": ("evaluate", "train_one_epoch"),
    "model": ("build_model", "load_run"),
    "run": ("resume", "train", "train_or_resume"),
    "tasks": ("task_of",),
}

__all__ = [
    "TrainConfig",
    "build_model",
    "evaluate",
    "load_run",
    "resume",
    "task_of",
    "train",
    "train_one_epoch",
    "train_or_resume",
]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
