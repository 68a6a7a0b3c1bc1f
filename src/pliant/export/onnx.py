# SPDX-License-Identifier: Apache-2.0
"""A model as an ONNX file, and a comparison of that file with the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from pliant._check import fail, require_package
from pliant.export import symbolics

MIN_OPSET = 19  # the first with DeformConv
SYMBOLICS: dict[str, Callable[..., Any]] = {
    "pliant::deform_conv2d": symbolics.deform_conv2d,
    "pliant::deform_roi_pool": symbolics.deform_roi_pool,
    "aten::_upsample_bilinear2d_aa": symbolics.antialiased_resize,
}


def export_onnx(
    model: nn.Module,
    args: tuple[Any, ...],
    path: Path | str,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    opset: int = MIN_OPSET,
) -> None:
    """Write `model` as an ONNX file, with deformable convolutions as the standard's DeformConv.

    The model is traced on `args`, so that what it decides in Python is fixed by them. Deformable RoI pooling becomes
    RoiAlign over shifted bins; position-sensitive pooling has no counterpart in ONNX and is refused.

    Args:
        model: in evaluation mode.
        args: example inputs, as the model is called with.
        path: the file to write.
        input_names: of the file's inputs, in the order of the tensors in `args`.
        output_names: of its outputs, in the order in which the model returns tensors.
        dynamic_axes: for inputs and outputs, the axes whose size may vary, with a name each; channels may not.
        opset: version of the standard, 19 at least.

    Raises:
        PliantError: the model is in training mode, `opset` is too old, or an operator has no counterpart.

    Example:
        >>> import tempfile, torch, pliant
        >>> layer = pliant.nn.DeformConv2d(4, 6, 3, padding=1).eval()
        >>> path = tempfile.mkdtemp() + "/layer.onnx"
        >>> export_onnx(layer, (torch.rand(1, 4, 8, 9),), path, input_names=["x"], output_names=["y"])
    """
    if opset < MIN_OPSET:
        fail("opset", f"must be at least {MIN_OPSET}, the first with DeformConv", opset, "leave it out")
    if model.training:
        fail("model", "must be in evaluation mode", "training mode", "call model.eval() first")
    for name, symbolic in SYMBOLICS.items():
        register_custom_op_symbolic(name, symbolic, MIN_OPSET)
    axes = None if dynamic_axes is None else {name: dict(named) for name, named in dynamic_axes.items()}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing tells of each Python number it fixes; that it does so is in this function's documentation.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                args,
                str(path),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_axes=axes,
                opset_version=opset,
                # The other exporter cannot follow torchvision's detectors, whose shapes depend on the data.
                dynamo=False,
            )
    except torch.onnx.errors.UnsupportedOperatorError as error:
        rule = "must be made of operators that ONNX has"
        fix = "use --roi-pool align, or run the model in PyTorch"
        fail("model", rule, str(error).splitlines()[0], fix)
    finally:
        for name in SYMBOLICS:
            unregister_custom_op_symbolic(name, MIN_OPSET)


def compare_with_onnx(
    path: Path | str, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, float]:
    """Run the ONNX file and return, for each output, the largest difference from `expected` over its largest value.

    A difference is infinite where the shapes differ, as when a detector's last detections fall out by rounding.

    Args:
        path: the file.
        inputs: a tensor for each of the file's inputs, by name.
        expected: what the model gave for them, by the names of the file's outputs.

    Raises:
        PliantError: ONNX Runtime is not installed.

    Example:
        >>> import tempfile, torch, pliant
        >>> layer, path = pliant.nn.DeformConv2d(4, 6, 3).eval(), tempfile.mkdtemp() + "/layer.onnx"
        >>> x = torch.rand(1, 4, 8, 9)
        >>> export_onnx(layer, (x,), path, input_names=["x"], output_names=["y"])
        >>> compare_with_onnx(path, {"x": x}, {"y": layer(x).detach()})["y"] < 1e-5
        True
    """
    runtime = require_package("onnxruntime", "export", "comparing an exported model")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(list(expected), {name: value.numpy() for name, value in inputs.items()})
    return {
        name: _difference(torch.from_numpy(got), value)
        for (name, value), got in zip(expected.items(), outputs, strict=True)
    }


def _difference(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    scale = expected.double().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((got.double() - expected.double()).abs().max() / scale)
