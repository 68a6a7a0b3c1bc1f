# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files, read without running anything that they hold."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pliant._check import fail
from pliant.backbones import read_tensors
from pliant.checkpoints.mxnet_params import read_params


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.pth`, `.pt`, `.safetensors` or MXNet `.params` file by their names.

    Raises:
        PliantError: no such file, a pickle with other things than tensors, or a damaged file.
    """
    if path.suffix == ".pkl" and path.is_file():
        fix = "save the model's state dict as a .pth file in the library that made it"
        fail("checkpoint", "must not be a pickle, which runs code when it is read", str(path), fix)
    if path.suffix == ".params" and path.is_file():
        return read_params(path)
    return read_tensors(path, "checkpoint")
