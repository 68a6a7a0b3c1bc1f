# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of a network, by PyTorch's own counter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


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

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    totals = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    own = type(network).__name__
    modules = {
        "" if name == own else name.removeprefix(f"{own}."): flops for name, flops in totals.items() if name != "Global"
    }
    return FlopCount(counter.get_total_flops(), modules)
