# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files, read without running anything that they hold."""

from __future__ import annotations

import pickle
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from pliant._check import PliantError, fail
from pliant.backbones import read_tensors

from .mxnet_params import read_params


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.pth`, `.pt`, `.safetensors` or MXNet `.params` file by their names.

    Raises:
        PliantError: no such file, a pickle with other things than tensors, or a damaged file.
    """
    if not path.is_file():
        fail("checkpoint", "must be a file", str(path), "check the path", kind=PliantError)
    if path.suffix == ".params":
        return read_params(path)
    if path.suffix == ".pkl":
        fix = "load it in detectron2 where you trust it, and torch.save(model.state_dict(), 'model.pth')"
        fail("checkpoint", "must not be a pickle, which runs code when it is read", str(path), fix, kind=PliantError)
    try:
        return read_tensors(path)
    except pickle.UnpicklingError as error:
        fix = "save its state dict alone, where you trust the file: torch.save(checkpoint['state_dict'], 'weights.pth')"
        got = f"{path} ({_reason(error)})"
        raise PliantError(f"checkpoint: must hold tensors and plain values alone; got {got}; {fix}") from error
    except (RuntimeError, EOFError, SafetensorError, ValueError) as error:
        if isinstance(error, PliantError):
            raise
        raise PliantError(
            f"checkpoint: must be a PyTorch or safetensors file; got {path} ({_reason(error)}); copy it again"
        ) from error


def _reason(error: Exception) -> str:
    """The line of PyTorch's long message that names what it met."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "WeightsUnpickler error" in line]
    return (named or lines or [type(error).__name__])[0]
