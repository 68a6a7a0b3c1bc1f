# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution as a layer that predicts its own offsets and modulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from pliant._check import fail, hint_at_names, shown
from pliant._geometry import padding_pair, pair
from pliant.nn.offset_branch import OffsetConv2d
from pliant.ops import deform_conv2d
from pliant.ops._checks import integer

HINTS = {
    "deform_groups": "write offset_groups= in its place",
    "deformable_groups": "write offset_groups= in its place",
    "padding_mode": "leave it out: a deformable convolution reads zeros outside the image; "
    "for other values pad the input by torch.nn.functional.pad and write padding=0",
}


def _check_bias(bias: object) -> None:
    """Refuse a number, which is another library's argument in this place."""
    if not isinstance(bias, bool):
        fix = "write bias=True, for example, and the number of offset groups as offset_groups="
        fail("bias", "must be True or False", shown(bias), fix, kind=TypeError)


class DeformConv2d(nn.Module):
    r"""A convolution whose sampling grid follows the image: offsets and modulation come from a convolution beside it.

    .. math:: y(p) = \sum_k w_k \cdot x(p + p_k + \Delta p_k) \cdot \Delta m_k, \quad
              \Delta m_k = s \cdot \mathrm{sigmoid}(\cdot)

    `conv_offset` has the kernel, stride, padding and dilation of the layer and starts at zero, so that the layer
    starts as the plain convolution with the same weights times `mask_scale / 2` (v1: exactly the plain convolution).
    Its output channels are all offsets, group by group as in `pliant.ops.deform_conv2d`, then all masks. The names in
    the state dict are mmcv's: `weight`, `bias`, `conv_offset.weight`, `conv_offset.bias`. A sample outside the image
    reads zeros, as in `pliant.ops.deform_conv2d`.

    Args:
        in_channels: C, channels of the input.
        out_channels: O, channels of the output.
        kernel_size: taps; an integer or (kh, kw).
        stride: distance between output positions, in pixels of the input; an integer or (vertical, horizontal).
        padding: zeros around the image, in pixels of the input; an integer or (vertical, horizontal); "valid" is none
            and "same" keeps the size of the image, as in `torch.nn.Conv2d`, where both sides take as many zeros.
        dilation: distance between taps, in pixels of the input; an integer or (vertical, horizontal).
        groups: weight groups; must divide C and O.
        bias: whether the layer (not the offset branch, which always has one) adds a bias.
        offset_groups: G; input channels are split into G runs that each have their own offsets; must divide C.
        modulated: v2 (offsets and modulation) if true, v1 (offsets alone) if false.
        mask_scale: s, the upper bound of the modulation. 1.0 is the v2 paper's and mmcv's, and starts at 0.5; 2.0 is
            the official code's and starts at 1, which keeps the output of a converted convolution.
        offset_limit: None, or L: each component of an offset becomes :math:`L \tanh(\Delta / L)`, which stays within
            L input pixels and is the offset itself while that is small. The papers have no limit; it is for training
            in which offsets run away. Parameters and their names are the same with it and without.
        device: where the parameters are made, as for `torch.nn.Conv2d`.
        dtype: their type.

    Shape:
        input (N, C, H, W) or (C, H, W); output (N, O, Ho, Wo) or (O, Ho, Wo), sizes as for `torch.nn.Conv2d`.

    Raises:
        TypeError: an argument is of the wrong kind, or of another library's name; the message says which to use.
        ValueError: a size, a stride, a number of groups, `mask_scale` or `offset_limit` is out of range.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformConv2d
        >>> layer = DeformConv2d(8, 6, kernel_size=3, padding=1)
        >>> layer(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 6, 5, 7])

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.1;
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2.
    """

    if TYPE_CHECKING:  # TorchScript looks at the annotations of a class, and cannot read these
        bias: nn.Parameter | None
        conv_offset: OffsetConv2d

    @hint_at_names("DeformConv2d", HINTS)
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        offset_groups: int = 1,
        modulated: bool = True,
        mask_scale: float = 1.0,
        offset_limit: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_bias(bias)
        in_channels, out_channels = integer("in_channels", in_channels, 1), integer("out_channels", out_channels, 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair("kernel_size", kernel_size, minimum=1)
        self.stride = pair("stride", stride, minimum=1)
        self.dilation = pair("dilation", dilation, minimum=1)
        self.padding = padding_pair(padding, self.kernel_size, self.stride, self.dilation)
        groups, offset_groups = integer("groups", groups), integer("offset_groups", offset_groups)
        self.groups, self.offset_groups = groups, offset_groups
        self.modulated, self.mask_scale, self.offset_limit = modulated, mask_scale, offset_limit
        self._check()
        kh, kw = self.kernel_size
        factory = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kh, kw, **factory))  # type: ignore[arg-type]
        own_bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None  # type: ignore[arg-type]
        self.register_parameter("bias", own_bias)  # registered as None too, as `torch.nn.Conv2d` does
        self.conv_offset = OffsetConv2d(
            in_channels,
            offset_groups * kh * kw * (3 if modulated else 2),
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            **factory,  # type: ignore[arg-type]
        )
        self.reset_parameters()

    def _check(self) -> None:
        C, O = self.in_channels, self.out_channels
        for name, value, rule in (
            ("groups", self.groups, f"must divide in_channels={C} and out_channels={O}"),
            ("offset_groups", self.offset_groups, f"must divide in_channels={C}"),
        ):
            if value < 1 or C % value or (name == "groups" and O % value):
                fail(name, rule, value, "use 1, or a common divisor")
        if not self.mask_scale > 0:
            fail("mask_scale", "must be positive", self.mask_scale, "use 1.0 (paper) or 2.0 (official code)")
        if self.offset_limit is not None and not self.offset_limit > 0:
            fix = "give pixels of the input, or None for no limit"
            fail("offset_limit", "must be positive", self.offset_limit, fix)

    def reset_parameters(self) -> None:
        """Set the weights as `torch.nn.Conv2d` does, and the offset branch to zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        self.conv_offset.reset_parameters()

    def offset_and_mask(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the offset branch's offset (N, 2*G*K, Ho, Wo) in pixels, and mask (N, G*K, Ho, Wo) or None."""
        prediction: Tensor = self.conv_offset(input)
        if not self.modulated:
            return self.limited(prediction), None
        samples = self.conv_offset.out_channels // 3  # a number of the layer, so that exporters see no shape computed
        offset, mask = prediction.split([2 * samples, samples], dim=-3)
        mask = mask.sigmoid()
        return self.limited(offset), mask if self.mask_scale == 1.0 else mask * self.mask_scale

    def limited(self, offset: Tensor) -> Tensor:
        """Return offsets as the layer uses them, within `offset_limit` where there is one."""
        if self.offset_limit is None:
            return offset
        return self.offset_limit * torch.tanh(offset / self.offset_limit)

    def forward(self, input: Tensor, feature: Tensor | None = None) -> Tensor:
        """Return the deformable convolution of `input` at the positions that `conv_offset` predicts.

        It predicts them from `input`, or from `feature` where that is given: a tensor of the same shape, such as the
        features of two video frames from which the alignment of one is found.
        """
        offset, mask = self.offset_and_mask(_seen_by_branch(input, feature))
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            result: Tensor = torch.ops.pliant.deform_conv2d(
                input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
            )
            return result
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, as `torch.nn.Conv2d` does."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] * (self.padding != (0, 0))
        parts += [f"dilation={self.dilation}"] * (self.dilation != (1, 1))
        parts += [f"groups={self.groups}"] * (self.groups != 1)
        parts += [f"offset_groups={self.offset_groups}"] * (self.offset_groups != 1)
        parts += ["bias=False"] * (self.bias is None)
        parts += [f"mask_scale={self.mask_scale}"] if self.modulated else ["modulated=False"]
        parts += [f"offset_limit={self.offset_limit}"] * (self.offset_limit is not None)
        return ", ".join(parts)


def _seen_by_branch(input: Tensor, feature: Tensor | None) -> Tensor:
    # torch.fx makes a Proxy of a default too.
    if not torch.jit.is_scripting() and has_torch_function_unary(feature):  # type: ignore[attr-defined]
        result: Tensor = handle_torch_function(_seen_by_branch, (feature,), input, feature)
        return result
    return input if feature is None else feature
