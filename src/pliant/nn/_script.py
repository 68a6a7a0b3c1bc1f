# SPDX-License-Identifier: Apache-2.0
"""TorchScript's compiler, which the layers of RoI pooling are not for."""

from __future__ import annotations

from typing import NoReturn

from pliant._check import fail_because


def refuse_script(layer: str) -> NoReturn:
    """Say what works in its place."""
    fix = "use torch.jit.trace or torch.export"
    fail_because(layer, "must be traced, not scripted", "TorchScript cannot say that boxes are a tensor or a list", fix)
