# SPDX-License-Identifier: Apache-2.0
"""Models with deformable layers as ONNX files, in the operators of the standard."""

from __future__ import annotations

from pliant.export.onnx import MIN_OPSET as MIN_OPSET
from pliant.export.onnx import compare_with_onnx as compare_with_onnx
from pliant.export.onnx import export_onnx as export_onnx
