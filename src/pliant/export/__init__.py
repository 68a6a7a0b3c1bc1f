# SPDX-License-Identifier: Apache-2.0
"""Models with deformable layers as ONNX files, in the operators of the standard."""

from __future__ import annotations

from pliant.export.onnx import MIN_OPSET, compare_with_onnx, export_onnx

__all__ = [
    "MIN_OPSET",
    "compare_with_onnx",
    "export_onnx",
]
