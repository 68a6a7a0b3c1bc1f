# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: written beside, flushed, then renamed over the old one.

`last.pt` is one file, so that weights, optimizer, schedule and random state can never be from different steps. It
holds tensors and plain values only and is read with `weights_only=True`. `weights.safetensors` is for everyone else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pliant._check import PliantError, fail
from pliant.backbones.weights import BROKEN_FILE, load_plain
from pliant.detection import without_mimicking


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk, and rename it to `path` in one step."""
    temporary = path.with_name(f"{path.name}.partial")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Save `state` (tensors and plain values, nested) as one file, atomically."""
    write_atomically(path, lambda target: torch.save(dict(state), target))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, to the CPU, without running code from the file.

    Raises:
        PliantError: no such file, or not a checkpoint of tensors and plain values.
    """
    if not path.is_file():
        fail("checkpoint", "must be a file", str(path), "train first, or check the path")
    state = load_plain(path, "checkpoint")
    if not isinstance(state, dict):
        fail("checkpoint", "must hold a dictionary", type(state).__name__, "check the path")
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Save the weights and buffers of `model` as safetensors, atomically, without the branch of feature mimicking."""
    state = without_mimicking(model.state_dict())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomically(path, lambda target: save_file(tensors, target))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`; every name and shape must fit.

    Raises:
        PliantError: no such file, a damaged one, or weights of another model.
    """
    if not path.is_file():
        fail("weights", "must be a file", str(path), "train first, or check the path")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except BROKEN_FILE as error:
        raise PliantError(f"weights: must be a safetensors file; got {path} ({error}); copy it again") from error
    own = model.state_dict()
    wrong = [k for k in own if k not in tensors or own[k].shape != tensors[k].shape] + [
        k for k in tensors if k not in own
    ]
    if wrong:
        rule = f"must fit the model; {len(wrong)} names or shapes differ"
        fail("weights", rule, f"{path}, e.g. {wrong[0]}", "use the config.json they came with")
    model.load_state_dict(tensors)


def random_state() -> dict[str, Any]:
    """Return the state of PyTorch's generators, CPU and CUDA."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put PyTorch's generators into a state from `random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
