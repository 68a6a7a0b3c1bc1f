# SPDX-License-Identifier: Apache-2.0
"""Run folders, the training loop, checkpoints, and resuming as if nothing had happened.

The configuration needs nothing but Python, so the command line can print its options anywhere. What needs torchvision
and accelerate is imported from its module: `pliant.train.run` (train, resume), `pliant.train.engine` (train_one_epoch,
evaluate), `pliant.train.model` (build_model, load_run), `pliant.train.tasks` (what each task does differently),
`pliant.train.checkpoint`, `pliant.train.progress`.
"""

from __future__ import annotations

from pliant.train.config import TrainConfig

__all__ = [
    "TrainConfig",
]
