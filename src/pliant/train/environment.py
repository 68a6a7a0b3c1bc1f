# SPDX-License-Identifier: Apache-2.0
"""What a run was made with: versions and machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

RECORDED = ("pliant", "torch", "torchvision", "timm", "accelerate", "faster-coco-eval", "numpy")


def environment(processes: int) -> dict[str, Any]:
    """Return the versions and the machine that a run of so many processes is made with."""
    versions = {}
    for name in RECORDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "packages": versions,
    }
