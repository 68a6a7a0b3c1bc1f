# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of deformable convolutions, for PyTorch's own counter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Shape = Sequence[int]
INTERPOLATION = 8  # a multiplication and an addition for each of the four corners of a sample


@dataclass(frozen=True)
class FlopCount:
    """Operations of one call of a network.

    Attributes:
        total: all of them; a multiplication and an addition are two.
        by_module: by the name of the module, those inside it included; the network itself is `""`.
    """

    total: int
    by_module: dict[str, int]


def count_flops(network: nn.Module, *inputs: Any) -> FlopCount:
    r"""Return the floating-point operations of `network(*inputs)`, its deformable convolutions included.

    PyTorch's `FlopCounterMode` counts, as always, matrix products and convolutions: two for a multiplication and an
    addition. A deformable convolution has those of the convolution, :math:`2 N O H_o W_o K C / g`, and 8 (9 with
    modulation) for each of the :math:`N C K H_o W_o` samples of a channel; its offset branch is a convolution.
    The network's mode is left as it is; nothing is computed for tensors on the device `meta`.

    Args:
        network: any module.
        inputs: its arguments, for example images (N, 3, H, W).

    Example:
        >>> from pliant.nn import DeformConv2d
        >>> layer = DeformConv2d(8, 6, 3, padding=1, modulated=False)
        >>> branch, convolution, samples = 2 * 18 * 72 * 20, 2 * 6 * 72 * 20, 8 * 72 * 20
        >>> count_flops(layer, torch.rand(1, 8, 4, 5)).total == branch + convolution + samples
        True
    """
    from torch.utils.flop_counter import FlopCounterMode

    register_flop_formulas()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    totals = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    own = type(network).__name__
    modules = {
        "" if name == own else name.removeprefix(f"{own}."): flops for name, flops in totals.items() if name != "Global"
    }
    return FlopCount(counter.get_total_flops(), modules)


def register_flop_formulas() -> None:
    """Tell `torch.utils.flop_counter` what a deformable convolution costs, for a `FlopCounterMode` of one's own.

    `count_flops` does so itself. Calling it again changes nothing. It is not done on import, since PyTorch's counter
    takes half a second to import.

    Example:
        >>> from torch.utils.flop_counter import FlopCounterMode
        >>> from pliant.ops import deform_conv2d
        >>> register_flop_formulas()
        >>> with FlopCounterMode(display=False) as counter:
        ...     _ = deform_conv2d(torch.rand(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), torch.rand(6, 3, 1, 1))
        >>> counter.get_total_flops() == 2 * 20 * 6 * 3 + 8 * 20 * 3
        True
    """
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    operators = torch.ops.pliant
    for operator, formula in (
        (operators.deform_conv2d, _forward_flops),
        (operators.deform_conv2d_backward, _backward_flops),
    ):
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)


def _samples(offset: Shape, weight: Shape, channels: int) -> int:
    """N C K Ho Wo, from the offsets (N, 2 G K, Ho, Wo) and the weights (O, C / g, kh, kw)."""
    return offset[0] * channels * math.prod(weight[2:]) * math.prod(offset[2:])


def _products(offset: Shape, weight: Shape) -> int:
    """2 N O Ho Wo K C / g."""
    return 2 * offset[0] * math.prod(weight) * math.prod(offset[2:])


def _forward_flops(
    input: Shape,
    offset: Shape,
    weight: Shape,
    bias: Shape | None,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    mask: Shape | None,
    *,
    out_shape: Shape,
) -> int:
    each = INTERPOLATION + (mask is not None)
    return _products(offset, weight) + each * _samples(offset, weight, input[1])


def _backward_flops(
    grad: Shape,
    input: Shape,
    offset: Shape,
    weight: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    mask: Shape | None,
    needed: Sequence[bool],
    *,
    out_shape: object,
) -> int:
    of_input, of_offset, of_weight, _, of_mask = needed
    products = (of_input or of_offset or of_mask) + of_weight
    # The samples once more for weights and masks, their scattering for the image, both slopes for the offsets.
    interpolations = (of_weight or of_mask) + of_input + 2 * of_offset
    samples = _samples(offset, weight, input[1])
    return products * _products(offset, weight) + interpolations * INTERPOLATION * samples
