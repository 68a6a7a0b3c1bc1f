# SPDX-License-Identifier: Apache-2.0
"""What the oldest PyTorch that pliant allows cannot do, so that `make test-versions` asks it for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

PYTORCH_2_6 = torch.__version__.startswith("2.6.")

# Inductor's cache of 2.6 warns of PyTorch's own settings.
ignores_cache = pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles_inline_module_allowlist")


def skip_reference_of_2_6(name: str) -> None:
    """Skip a test that compiles the reference: PyTorch 2.6 cannot follow its question whether `vmap` is at work."""
    if PYTORCH_2_6 and name == "reference":
        pytest.skip("PyTorch 2.6 compiles the native library alone")


def replace_kernel(library: torch.library.Library, name: str, function: Callable[..., Any]) -> None:
    """Let `function` be the operator's kernel on the CPU instead of the one that is registered."""
    if PYTORCH_2_6:  # which has no allow_override
        torch.library._impls.discard(f"pliant/{name}/CPU")
        library.impl(name, function, "CPU")
    else:
        library.impl(name, function, "CPU", allow_override=True)
