# SPDX-License-Identifier: Apache-2.0
"""Exported files against the models that they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pliant.export import compare_with_onnx


def largest(path: Path, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of a file's one output, as a share of its largest value."""
    [difference] = compare_with_onnx(path, inputs, expected)
    assert difference.measure == "largest difference over the largest value"
    assert difference.compared > 50
    return difference.value
