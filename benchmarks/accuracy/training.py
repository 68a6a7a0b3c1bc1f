# SPDX-License-Identifier: Apache-2.0
"""What the studies of whole systems share: settings, and a training that goes on where it was stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pliant.train import TrainConfig
from pliant.train.run import resume, train


def short_training(data: Path, weights: Path | None, **own: Any) -> TrainConfig:
    """Return the settings of a short training of a small network on a CPU, with a study's own beside them."""
    shared: dict[str, Any] = {
        "backbone": "mobilenet_v2",
        "weights": None if weights is None else str(weights),
        "val_split": None,
        "optimizer": "adamw",
        "lr": 1e-3,
        "offset_lr_scale": 0.3,
        "schedule": "onecycle",
        "device": "cpu",
    }
    return TrainConfig(data=str(data), **shared, **own)


def trained(config: TrainConfig, folder: Path) -> float | None:
    """Train into `folder`, or go on there; return the CPU seconds, None where some were spent in an earlier run."""
    started = time.process_time()
    resumed = (folder / "config.json").is_file()
    if not (resume(folder) if resumed else train(config, folder)):
        raise KeyboardInterrupt
    return None if resumed else round(time.process_time() - started, 1)
