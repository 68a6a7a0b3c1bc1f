# SPDX-License-Identifier: Apache-2.0
"""State dicts under other libraries' names, and models to put them into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pliant.checkpoints import Conversion
from pliant.train import TrainConfig
from pliant.train.model import build_model

NAMES = Path(__file__).resolve().parents[1] / "checkpoints" / "names"


def listed(file: str) -> dict[str, Tensor]:
    """Tensors without data, of the names and shapes in a file that lists those of the library itself."""
    state = {}
    for line in (NAMES / file).read_text(encoding="utf-8").splitlines():
        name, shape = line.split(" ")
        sizes = [] if shape == "scalar" else [int(size) for size in shape.split("x")]
        state[name] = torch.empty(sizes, device="meta")
    return state


def model_of(conversion: Conversion, **changed: Any) -> nn.Module:
    """The model that a conversion asks for, without data."""
    config = TrainConfig.from_dict({"data": "none", **conversion.settings, **changed})
    with torch.device("meta"):
        return build_model(config, conversion.labels, pretrained=False)


def randomised(model: nn.Module) -> nn.Module:
    """The model with every weight and statistic drawn at random, so that no two layers are alike."""
    generator = torch.Generator().manual_seed(11)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
            scale *= 1e-3 if "bbox_pred" in name else 1.0  # boxes that stay in the image
            tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def renamed(state: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict with each name rewritten by the first rule whose pattern is its whole."""
    result = {}
    for name, tensor in state.items():
        pattern = next(pattern for pattern in rules if re.fullmatch(pattern, name))
        result[re.sub(pattern, rules[pattern], name)] = tensor
    return result
