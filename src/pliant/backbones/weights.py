# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of classification networks, read without running any code from them."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pliant._check import PliantError, fail

# What PyTorch and safetensors raise for files that are not what they claim to be.
BROKEN_FILE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# Bytes of all tensors for each byte of their file; tensors that share memory are stored once.
MOST_BYTES = 16


def load_trunk_weights(network: nn.Module, path: str) -> None:
    """Load a classification checkpoint into `network`; only the classifier itself may be missing or of another size.

    Args:
        network: of torchvision or timm; changed in place.
        path: a `.safetensors` or PyTorch file, in the network's own names.

    Raises:
        PliantError: no such file, not a file of tensors alone, or names that do not fit.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/weights.pth"
        >>> torch.save(nn.Sequential(nn.Conv2d(3, 4, 1)).state_dict(), path)
        >>> load_trunk_weights(nn.Sequential(nn.Conv2d(3, 4, 1)), path)
    """
    given = read_tensors(Path(path))
    own = network.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    missing = [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]
    body = [k for k in missing if not k.startswith(("fc.", "classifier.", "head.", "conv_head.", "bn2."))]
    if body:
        names = ", ".join(body[:3]) + (", ..." if len(body) > 3 else "")
        fix = "give a checkpoint of this backbone"
        rule = f"must hold every weight of the backbone; {len(body)} of {len(own)} are absent or of another shape"
        fail("weights", rule, f"{path} without {names}", fix)
    network.load_state_dict(fitting, strict=False)


def read_tensors(path: Path, argument: str = "weights") -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` or a PyTorch file, without running any code from it.

    Args:
        path: the file.
        argument: what errors call it.

    Returns:
        The tensors by name, without the `module.` that wrappers put before names; those of a checkpoint that holds its
        state dict as `state_dict` or `model`.

    Raises:
        PliantError: no such file, a damaged one, one that holds other things than tensors and plain values, or one
            whose tensors are far larger than itself.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.pth"
        >>> torch.save({"epoch": 3, "state_dict": {"module.fc.bias": torch.zeros(5)}}, path)
        >>> list(read_tensors(path))
        ['fc.bias']
    """
    if not path.is_file():
        fail(argument, "must be a file", str(path), "check the path")
    content = _load_safetensors(path, argument) if path.suffix == ".safetensors" else load_plain(path, argument)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        fail(argument, "must hold a state dict", type(content).__name__, "save model.state_dict()")
    tensors = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    _check_size(tensors, path, argument)
    return tensors


def _load_safetensors(path: Path, argument: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except BROKEN_FILE as error:
        raise PliantError(
            f"{argument}: must be a whole PyTorch or safetensors file; got {path} ({_reason(error)}); copy it again"
        ) from error


def load_plain(path: Path, argument: str) -> Any:
    """Load the tensors and plain values of a PyTorch file to the CPU, without running any code from it.

    Raises:
        PliantError: a damaged file, one that unpacks to more than its size, or one that holds other things.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # PyTorch compresses nothing. What is compressed, or named twice, can unpack to any size.
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    fail(argument, "must not be compressed", str(path), "save it again with torch.save")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of PyTorch's, on protocols of pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except PliantError:
        raise
    except pickle.UnpicklingError as error:
        got, fix = f"{path} ({_reason(error)})", "ask its maker for the state dict alone, as safetensors"
        raise PliantError(f"{argument}: must hold tensors and plain values alone; got {got}; {fix}") from error
    except (*BROKEN_FILE, OSError) as error:
        got = f"{path} ({_reason(error)})"
        raise PliantError(f"{argument}: must be a whole file of PyTorch's; got {got}; copy it again") from error


def _check_size(tensors: Mapping[str, Tensor], path: Path, argument: str) -> None:
    """Refuse tensors that have no memory of their own, and views that repeat a few numbers any number of times."""
    plain = all(t.layout == torch.strided and not t.is_meta and not t.is_quantized for t in tensors.values())
    if not plain or sum(t.nbytes for t in tensors.values()) > MOST_BYTES * path.stat().st_size:
        fix = "save contiguous ones"
        got = f"{path} of {path.stat().st_size} bytes"
        fail(argument, "must hold dense tensors that are about as large as the file", got, fix)


def _reason(error: Exception) -> str:
    """The part of PyTorch's long message that names what it met, without its advice on how to load it anyway."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line.partition("WeightsUnpickler error:")[2].strip() for line in lines if "WeightsUnpickler error" in line]
    text = (named or [type(error).__name__] if isinstance(error, pickle.UnpicklingError) else lines or [""])[0]
    return text.partition(" Please use")[0].partition(" was not an allowed")[0] or type(error).__name__
