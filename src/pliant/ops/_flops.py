# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of deformable convolutions, for PyTorch's `FlopCounterMode`."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

Shape = Sequence[int]
INTERPOLATION = 8  # a multiplication and an addition for each of the four corners of a sample
COUNTER = "torch.utils.flop_counter"


def register_when_imported() -> None:
    """Tell PyTorch's counter the formulas, now or when it is imported: it imports Triton, which takes long."""
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(MetaPathFinder):
    """Waits for the counter's import, which the other finders then do, and adds one step to it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register(counter: ModuleType) -> None:
    operators = torch.ops.pliant
    counter.register_flop_formula(operators.deform_conv2d)(_forward_flops)
    counter.register_flop_formula(operators.deform_conv2d_backward)(_backward_flops)


def _samples(offset: Shape, weight: Shape, channels: int) -> int:
    """N C K Ho Wo, from the offsets (N, 2 G K, Ho, Wo) and the weights (O, C / g, kh, kw)."""
    return offset[0] * channels * math.prod(weight[2:]) * math.prod(offset[2:])


def _products(offset: Shape, weight: Shape) -> int:
    """2 N O Ho Wo K C / g."""
    return 2 * offset[0] * math.prod(weight) * math.prod(offset[2:])


def _forward_flops(input: Shape, offset: Shape, weight: Shape, *others: Shape | None, out_shape: Shape) -> int:
    mask = others[-1]
    each = INTERPOLATION + (mask is not None)
    return _products(offset, weight) + each * _samples(offset, weight, input[1])


def _backward_flops(
    grad: Shape, input: Shape, offset: Shape, weight: Shape, *others: Sequence[Any], out_shape: object
) -> int:
    needed: Sequence[bool] = others[-1]
    of_input, of_offset, of_weight, _, of_mask = needed
    products = (of_input or of_offset or of_mask) + of_weight
    # The samples once more for weights and masks, their scattering for the image, both slopes for the offsets.
    interpolations = (of_weight or of_mask) + of_input + 2 * of_offset
    samples = _samples(offset, weight, input[1])
    return products * _products(offset, weight) + interpolations * INTERPOLATION * samples
