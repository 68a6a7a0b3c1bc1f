# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there, and whose damage is noticed.

`last.pt` is one file, so that weights, optimizer, schedule and random state can never be from different steps. It
holds tensors and plain values only and is read with `weights_only=True`; being a zip archive it has a checksum of each
of its parts. `weights.safetensors` is for everyone else; its header holds a checksum of the tensors.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pliant._check import PliantError, fail, fail_because
from pliant.backbones.weights import BROKEN_FILE, load_plain
from pliant.detection import without_mimicking
from pliant.train.files import write_atomically

_CHECKSUM = "sha256"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Save `state` (tensors and plain values, nested) as one file, atomically."""

    def write(target: Path) -> None:
        # A file of Python's, because PyTorch's own does not say why it could not be written.
        with target.open("wb") as file:
            torch.save(dict(state), file)

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, to the CPU, without running code from the file.

    Raises:
        PliantError: no such file, a damaged one, or not a checkpoint of tensors and plain values.
    """
    if not path.is_file():
        fail("checkpoint", "must be a file", str(path), "train first, or check the path")
    state = load_plain(path, "checkpoint")
    if not _is_intact(path):
        _refuse_damaged("checkpoint", path)
    if not isinstance(state, dict):
        fail("checkpoint", "must hold a dictionary", type(state).__name__, "check the path")
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Save the weights and buffers of `model` as safetensors, atomically, without the branch of feature mimicking."""
    state = without_mimicking(model.state_dict())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {_CHECKSUM: _checksum(tensors)}
    write_atomically(path, lambda target: save_file(tensors, target, metadata=metadata))


def read_weights(path: Path, argument: str = "weights") -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, and compare them with its checksum if it has one.

    Raises:
        PliantError: no such file, or a damaged one.
    """
    if not path.is_file():
        fail(argument, "must be a file", str(path), "train first, or check the path")
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get(_CHECKSUM)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except BROKEN_FILE as error:
        raise PliantError(f"{argument}: must be a safetensors file; got {path} ({error}); copy it again") from error
    if expected is not None and expected != _checksum(tensors):
        _refuse_damaged(argument, path)
    return tensors


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`; every name and shape must fit.

    Raises:
        PliantError: no such file, a damaged one, or weights of another model.
    """
    tensors = read_weights(path)
    own = model.state_dict()
    wrong = [k for k in own if k not in tensors or own[k].shape != tensors[k].shape] + [
        k for k in tensors if k not in own
    ]
    if wrong:
        rule = f"must fit the model; {len(wrong)} names or shapes differ"
        fail("weights", rule, f"{path}, e.g. {wrong[0]}", "use the config.json they came with")
    model.load_state_dict(tensors)


def _is_intact(archive: Path) -> bool:
    """Return whether each part of a zip archive has its checksum, which PyTorch does not look at."""
    try:
        with zipfile.ZipFile(archive) as content:
            return content.testzip() is None
    except BROKEN_FILE:  # its names too may be damaged
        return False


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} shape {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse_damaged(argument: str, path: Path) -> None:
    reason = "its checksum is not that of its content"
    fail_because(argument, f"must be undamaged; {path}", reason, "copy it again, or train again")


def random_state() -> dict[str, Any]:
    """Return the state of PyTorch's generators, CPU and CUDA."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put PyTorch's generators into a state from `random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
