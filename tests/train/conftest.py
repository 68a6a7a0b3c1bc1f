# SPDX-License-Identifier: Apache-2.0
"""A tiny data set and a tiny detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.shapes import write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images to train on, two to validate on."""
    return write_shapes(tmp_path_factory.mktemp("shapes"), {"train": 7, "val": 2})


@pytest.fixture(scope="session")
def tiny(shapes: Path) -> dict[str, Any]:
    """Settings of a run of ten steps: two and a half epochs of four batches."""
    return {
        "data": str(shapes),
        "val_split": None,
        "backbone": "resnet18",
        "deform": "c4",
        "strides": [8, 16],
        "fpn_channels": 16,
        "head_channels": 32,
        "roi_samples": 32,
        "anchor_sizes": [16.0, 32.0, 64.0],
        "min_size": [64, 80],
        "max_size": 128,
        "rotate90": True,
        "photometric": True,
        "steps": 10,
        "log_every": 1,
        "checkpoint_every": 3,
        "device": "cpu",
    }
