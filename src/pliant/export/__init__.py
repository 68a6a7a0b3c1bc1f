# SPDX-License-Identifier: Apache-2.0
"""Models with deformable layers as files for other programs: ONNX, and whatever follows PyTorch's own operators."""

from __future__ import annotations

from pliant.export.onnx import MIN_OPSET, MIN_PLAIN_OPSET, check_opset, compare_with_onnx, export_onnx, run_onnx
from pliant.export.parity import Difference, differences
from pliant.export.plain import plain_operators
from pliant.export.programs import lower_program

__all__ = [
    "MIN_OPSET",
    "MIN_PLAIN_OPSET",
    "check_opset",
    "compare_with_onnx",
    "export_onnx",
    "run_onnx",
    "Difference",
    "differences",
    "plain_operators",
    "lower_program",
]
