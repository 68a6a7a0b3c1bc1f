# SPDX-License-Identifier: Apache-2.0
"""TorchScript's compiler, which cannot compile the layers of RoI pooling."""

from __future__ import annotations

from typing import NoReturn

from pliant._check import fail_because


def refuse_script(layer: str) -> NoReturn:
    """Raise an error that says what works instead."""
    fix = "use torch.jit.trace or torch.export"
    fail_because(layer, "must be traced, not scripted", "TorchScript cannot say that boxes are a tensor or a list", fix)
