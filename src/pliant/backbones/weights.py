# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of classification networks, read without running any code from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pliant._check import PliantError, fail


def load_trunk_weights(network: nn.Module, path: str) -> None:
    """Load a classification checkpoint into `network`; only the classifier itself may be missing or of another size.

    Raises:
        PliantError: no such file, not a file of tensors alone, or names that do not fit.
    """
    given = read_tensors(Path(path))
    own = network.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    missing = [k for k in own if k not in fitting and not k.endswith("num_batches_tracked")]
    body = [k for k in missing if not k.startswith(("fc.", "classifier.", "head.", "conv_head.", "bn2."))]
    if body:
        names = ", ".join(body[:3]) + (", ..." if len(body) > 3 else "")
        fix = "give a checkpoint of this very backbone"
        rule = f"must hold every weight of the backbone; {len(body)} of {len(own)} are absent or of another shape"
        fail("weights", rule, f"{path} without {names}", fix, kind=PliantError)
    network.load_state_dict(fitting, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` or a PyTorch file, without running any code from it."""
    if not path.is_file():
        fail("weights", "must be a file", str(path), "check the path", kind=PliantError)
    if path.suffix == ".safetensors":
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        fail("weights", "must hold a state dict", type(content).__name__, "save model.state_dict()", kind=PliantError)
    return {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
