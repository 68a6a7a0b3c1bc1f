# SPDX-License-Identifier: Apache-2.0
"""Programs of `torch.export`, in which pliant's operators are replaced by those that another program knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pliant._check import fail
from pliant._geometry import ConvGeometry
from pliant.ops._deform_conv2d.contract import with_geometry
from pliant.ops._deform_conv2d.plain import decomposed
from pliant.ops._deform_conv2d.recorded import as_onnx, as_torchvision
from pliant.ops._deform_roi_pool.recorded import Align, as_roi_align, by_onnx, by_torchvision
from pliant.ops._deform_roi_pool.reference import Pooling
from pliant.ops._recording import HAS_ONNX_NODES

Target = Literal["onnx", "torchvision", "plain"]
Convolution = Callable[[Tensor, Tensor, Tensor, Tensor | None, ConvGeometry, Tensor | None], Tensor]
CHOICES: dict[Target, tuple[Convolution, Align]] = {
    "onnx": (as_onnx, by_onnx),
    "torchvision": (as_torchvision, by_torchvision),
    "plain": (decomposed, by_torchvision),
}


def lower_program(program: torch.export.ExportedProgram, target: Target) -> torch.export.ExportedProgram:
    """Return `program` with pliant's operators replaced by others of the same results.

    `torch.onnx.export(model, ..., dynamo=True)` and `torch.jit.trace` do so themselves; a program that was exported
    before still holds pliant's operators, which keep their gradients and their speed.

    Args:
        program: what `torch.export.export` returned.
        target: "onnx" for `torch.onnx.export(program)`: DeformConv and RoiAlign of the standard (PyTorch 2.8 or newer).
            "torchvision" for OpenVINO, among others: torchvision's operators. "plain": `grid_sample` and `conv2d`.

    Raises:
        PliantError: `target` is none of these, or "onnx" with an older PyTorch.

    Example:
        >>> import torch, pliant
        >>> layer = pliant.nn.DeformConv2d(4, 6, 3).eval()
        >>> program = torch.export.export(layer, (torch.rand(1, 4, 8, 9),))
        >>> program = lower_program(program, "torchvision")
        >>> [str(node.target) for node in program.graph.nodes if "deform" in str(node.target)]
        ['torchvision.deform_conv2d.default']
    """
    if target not in CHOICES:
        fail("target", f"must be one of {', '.join(get_args(Target))}", repr(target), "use 'onnx' for ONNX files")
    if target == "onnx" and not HAS_ONNX_NODES:
        fail("target", "'onnx' needs PyTorch 2.8 or newer", torch.__version__, "use 'plain'")
    convolution, align = CHOICES[target]

    def pool(input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, *attributes: Any) -> Tensor:
        return as_roi_align(input, rois, offset, mask, Pooling.of(*attributes), align)

    operators = torch.ops.pliant
    table = {operators.deform_conv2d.default: with_geometry(convolution), operators.deform_roi_pool.default: pool}
    lowered: torch.export.ExportedProgram = program.run_decompositions(table)
    return lowered
