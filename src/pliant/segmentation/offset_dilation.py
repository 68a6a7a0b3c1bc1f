# SPDX-License-Identifier: Apache-2.0
"""The offset branch of the official DeepLab: undilated beside a dilated deformable convolution."""

from __future__ import annotations

from torch import nn

from pliant._check import fail
from pliant.nn import DeformConv2d


def undilate_offset_branches(network: nn.Module) -> int:
    """Give the offset branch of each dilated deformable convolution dilation 1, centred on the same positions.

    The paper's offset branch has "the same spatial resolution and dilation" as its layer. The official DeepLab's
    does not: beside a 3x3 convolution of padding 2 and dilation 2 stands one of padding 1 and dilation 1.
    Shapes, names and the output of an untrained branch, zero, are the same; trained weights fit one of the two.

    Args:
        network: any module; changed in place.

    Returns:
        How many layers were changed.

    Raises:
        PliantError: a layer whose padding cannot be centred, e.g. of an even kernel.

    Example:
        >>> layer = DeformConv2d(8, 8, 3, padding=2, dilation=2)
        >>> undilate_offset_branches(layer), layer.conv_offset.padding, layer.conv_offset.dilation
        (1, (1, 1), (1, 1))
    """
    layers = [m for m in network.modules() if isinstance(m, DeformConv2d) and m.conv_offset.dilation != (1, 1)]
    for layer in layers:
        padding = _centred_padding(layer)
        layer.conv_offset.padding, layer.conv_offset.dilation = padding, (1, 1)
    return len(layers)


def _centred_padding(layer: DeformConv2d) -> tuple[int, int]:
    """The padding that keeps size and centre of the output when the dilation goes to 1."""
    geometry = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    reach = [(p, (d - 1) * (k - 1)) for k, d, p in geometry]
    if any(shrink % 2 or 2 * p < shrink for p, shrink in reach):
        rule = "must be 'paper' for layers whose offsets cannot be centred without dilation"
        got = f"kernel {layer.kernel_size}, dilation {layer.dilation}, padding {layer.padding}"
        fix = "use offset_dilation='paper'"
        fail("offset_dilation", rule, got, fix)
    (top, high), (left, wide) = reach
    return (top - high // 2, left - wide // 2)
