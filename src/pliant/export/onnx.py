# SPDX-License-Identifier: Apache-2.0
"""A model as an ONNX file, and a comparison of that file with the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from pliant._check import fail, require_package
from pliant._writing import write_whole
from pliant.export.parity import Difference, differences
from pliant.export.plain import plain_operators
from pliant.ops._deform_conv2d.recorded import OPSET

MIN_OPSET = OPSET  # the first with DeformConv
MIN_PLAIN_OPSET = 16  # the first with GridSample
Graph = Any  # torch.onnx's graph builder, whose type is not public
Value = Any


def export_onnx(
    model: nn.Module,
    args: tuple[Any, ...],
    path: Path | str,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    opset: int | None = None,
    decompose: bool = False,
) -> None:
    """Write `model` as an ONNX file, with deformable convolutions as the standard's DeformConv.

    The model is traced on `args`, so that what it decides in Python is fixed by them. Deformable RoI pooling becomes
    RoiAlign over shifted bins. Position-sensitive pooling has no counterpart in ONNX and is refused, unless it is
    decomposed. It is for models in float32 or float64.

    Args:
        model: in evaluation mode.
        args: example inputs, as the model is called with.
        path: the file to write.
        input_names: of the file's inputs, in the order of the tensors in `args`.
        output_names: of its outputs, in the order in which the model returns tensors.
        dynamic_axes: for inputs and outputs, the axes whose size may vary, with a name each; channels may not.
        opset: version of the standard, 19 at least, or 16 if `decompose` is set; those by default.
        decompose: write deformable convolutions as GridSample and Conv, for runtimes without DeformConv.

    Raises:
        PliantError: the model is in training mode, `opset` is too old, an operator has no counterpart, or torchvision
            is not installed.

    Example:
        >>> import tempfile, torch, pliant
        >>> layer = pliant.nn.DeformConv2d(4, 6, 3, padding=1).eval()
        >>> path = tempfile.mkdtemp() + "/layer.onnx"
        >>> export_onnx(layer, (torch.rand(1, 4, 8, 9),), path, input_names=["x"], output_names=["y"])
    """
    check_opset(opset, decompose=decompose)
    opset = opset or (MIN_PLAIN_OPSET if decompose else MIN_OPSET)
    if model.training:
        fail("model", "must be in evaluation mode", "training mode", "call model.eval() first")
    require_package("torchvision", "export", "exporting a model")  # whose operators a trace holds
    written: AbstractContextManager[object] = plain_operators() if decompose else nullcontext()
    written_by = {name: value for name, value in SYMBOLICS.items() if value[0] <= opset}
    for name, (first, symbolic) in written_by.items():
        register_custom_op_symbolic(name, symbolic, first)
    axes = None if dynamic_axes is None else {name: dict(named) for name, named in dynamic_axes.items()}
    try:
        with warnings.catch_warnings(), torch.no_grad(), written:
            # Tracing warns of each Python number that it fixes; the documentation of this function says so.
            warnings.simplefilter("ignore")
            names: dict[str, Any] = {"input_names": list(input_names), "output_names": list(output_names)}
            # The other exporter cannot follow torchvision's detectors, whose shapes depend on the data.
            options = {**names, "dynamic_axes": axes, "opset_version": opset, "dynamo": False}
            write_whole(path, lambda target: torch.onnx.export(model, args, str(target), **options))
    except torch.onnx.errors.UnsupportedOperatorError as error:
        rule = f"must be made of operators that ONNX has in opset {opset}"
        fail("model", rule, str(error).splitlines()[0], "decompose it, or take a newer opset")
    finally:
        for name, (first, _) in written_by.items():
            unregister_custom_op_symbolic(name, first)


def check_opset(opset: int | None, *, decompose: bool) -> None:
    """Raise unless the version of ONNX has the operators that would be written.

    Args:
        opset: the version, or None for the first that has them.
        decompose: as for `export_onnx`.

    Raises:
        PliantError: it does not have them.

    Example:
        >>> check_opset(16, decompose=True)
    """
    least, operator = (MIN_PLAIN_OPSET, "GridSample") if decompose else (MIN_OPSET, "DeformConv")
    if opset is not None and opset < least:
        other = "" if decompose else f", or decompose, which needs {MIN_PLAIN_OPSET}"
        fail("opset", f"must be at least {least}, the first with {operator}", opset, f"leave it out{other}")


def run_onnx(path: Path | str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
    """Return the named outputs that ONNX Runtime computes on the CPU from an ONNX file.

    Args:
        path: the file.
        inputs: a tensor for each of the file's inputs, by name.
        outputs: names of the file's outputs.

    Raises:
        PliantError: ONNX Runtime is not installed, or is too old for the file's operators.

    Example:
        >>> import tempfile, torch, pliant
        >>> layer, path = pliant.nn.DeformConv2d(4, 6, 3).eval(), tempfile.mkdtemp() + "/layer.onnx"
        >>> x = torch.rand(1, 4, 8, 9)
        >>> export_onnx(layer, (x,), path, input_names=["x"], output_names=["y"])
        >>> torch.allclose(run_onnx(path, {"x": x}, ["y"])["y"], layer(x), atol=1e-5)
        True
    """
    runtime = require_package("onnxruntime", "export", "comparing an exported model")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        values = session.run(list(outputs), {name: value.numpy() for name, value in inputs.items()})
    except runtime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        fix = "take 1.25 or newer, the first with DeformConv on the CPU, or decompose"
        fail("onnxruntime", "must run the file", f"{runtime.__version__}: {str(error).splitlines()[0]}", fix)
    return {name: torch.from_numpy(value) for name, value in zip(outputs, values, strict=True)}


def compare_with_onnx(
    path: Path | str, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> list[Difference]:
    """Run the ONNX file and compare its outputs with the model's, as `differences` does.

    Args:
        path: the file.
        inputs: a tensor for each of the file's inputs, by name.
        expected: what the model gave for them, by the names of the file's outputs.

    Raises:
        PliantError: as for `run_onnx`.

    Example:
        >>> import tempfile, torch, pliant
        >>> layer, path = pliant.nn.DeformConv2d(4, 6, 3).eval(), tempfile.mkdtemp() + "/layer.onnx"
        >>> x = torch.rand(1, 4, 8, 9)
        >>> export_onnx(layer, (x,), path, input_names=["x"], output_names=["y"])
        >>> all(difference.passes for difference in compare_with_onnx(path, {"x": x}, {"y": layer(x).detach()}))
        True
    """
    return differences(run_onnx(path, inputs, list(expected)), expected)


# --- what PyTorch's tracing exporter lacks, torchvision's operator among it, which pliant records in a trace ----------


@symbolic_helper.parse_args("v", "v", "v", "v", "v", "i", "i", "i", "i", "i", "i", "i", "i", "b")
def _deform_conv2d(
    g: Graph,
    input: Value,
    weight: Value,
    offset: Value,
    mask: Value,
    bias: Value,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Value:
    """Write `torchvision::deform_conv2d` as DeformConv (opset 19): the same order of offsets, the same border."""
    return g.op(
        "DeformConv",
        input,
        weight,
        offset,
        bias,
        *([mask] if use_mask else []),
        strides_i=[stride_h, stride_w],
        pads_i=[pad_h, pad_w, pad_h, pad_w],
        dilations_i=[dilation_h, dilation_w],
        group_i=groups,
        offset_group_i=offset_groups,
    )


@symbolic_helper.parse_args("v", "is", "b", "none")
def _antialiased_resize(
    g: Graph, input: Value, output_size: Sequence[int], align_corners: bool, scale_factors: None
) -> Value:
    """Write PyTorch's antialiased bilinear resizing as Resize (opset 18)."""
    count = g.op("Slice", g.op("Shape", input), *(g.op("Constant", value_t=torch.tensor([k])) for k in (0, 2)))
    return g.op(
        "Resize",
        input,
        g.op("Constant", value_t=torch.tensor([])),
        g.op("Constant", value_t=torch.tensor([])),
        g.op("Concat", count, g.op("Constant", value_t=torch.tensor(output_size)), axis_i=0),
        mode_s="linear",
        antialias_i=1,
        coordinate_transformation_mode_s="align_corners" if align_corners else "half_pixel",
    )


# The version of the standard from which each can be written, and what writes it.
SYMBOLICS: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "torchvision::deform_conv2d": (OPSET, _deform_conv2d),
    "aten::_upsample_bilinear2d_aa": (18, _antialiased_resize),
}
