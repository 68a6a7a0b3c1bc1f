# SPDX-License-Identifier: Apache-2.0
"""pliant's operators in operators that every runtime has: a grid of samples and a convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from pliant.ops import deform_conv2d, deform_ps_roi_pool
from pliant.ops._deform_conv2d.api import geometry_of
from pliant.ops._deform_conv2d.plain import decomposed


def plain_operators() -> AbstractContextManager[object]:
    """Return a context in which `pliant.ops.deform_conv2d` is written in operators that every runtime has.

    Any exporter or converter that follows a model inside it finds `grid_sample` and `conv2d` in place of deformable
    convolutions, and `deform_ps_roi_pool` as its reference computes it. Deformable RoI pooling becomes RoIAlign
    without it too. Offsets must be finite. The samples of a layer are kept in memory, K times its input.

    Example:
        >>> import torch, pliant
        >>> layer, x = pliant.nn.DeformConv2d(4, 6, 3).eval(), torch.rand(1, 4, 8, 9)
        >>> with plain_operators():
        ...     program = torch.export.export(layer, (x,))
        >>> sorted({str(node.target) for node in program.graph.nodes if "grid" in str(node.target)})
        ['aten.grid_sampler.default']
    """
    return _PlainOperators()


class _PlainOperators(TorchFunctionMode):
    """Replaces the calls of pliant's functions, and of nothing else."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is deform_conv2d:
            given.pop("impl", None)
            return _plain_deform_conv2d(*args, **given)
        if func is deform_ps_roi_pool:
            given["impl"] = "reference"
        call: Callable[..., Any] = func
        return call(*args, **given)


def _plain_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = (1, 1),
    padding: int | Sequence[int] | str = (0, 0),
    dilation: int | Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    geometry = geometry_of(weight, stride, padding, dilation)
    if input.dim() == 3:
        mask = None if mask is None else mask.unsqueeze(0)
        return decomposed(input.unsqueeze(0), offset.unsqueeze(0), weight, bias, geometry, mask).squeeze(0)
    return decomposed(input, offset, weight, bias, geometry, mask)
