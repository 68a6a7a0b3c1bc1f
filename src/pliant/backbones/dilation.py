# SPDX-License-Identifier: Apache-2.0
"""The last stages of a trunk at a finer stride, their convolutions dilated instead: the papers' conv5 at stride 16."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from torch import nn

from pliant._check import fail
from pliant.backbones.stages import StagedNetwork, outputs_of


def dilate(network: StagedNetwork, output_stride: int, dilation: int | None = None) -> StagedNetwork:
    r"""Return `network` with no stage coarser than `output_stride`, changed in place; weights and names stay.

    A stage whose stride was :math:`s` gets stride :math:`s_o =` `output_stride`, and **every** convolution in it that
    is larger than 1x1 gets the dilation :math:`s / s_o`: conv5 at 16 has dilation 2 and at 8 has 4 (conv4 then 2). The
    papers' and the official code's conv5 is so from its first block on, while torchvision's
    `replace_stride_with_dilation` leaves the first block's 3x3 undilated.

    Args:
        network: one whose stages downsample by convolutions alone.
        output_stride: the coarsest stride left, in input pixels per cell: one of the network's.
        dilation: of the last stage, where that is not what its stride asks for (v1, Table 3: 4, 6, 8 at stride 16).

    Raises:
        PliantError: a stride that the network does not have, or a stage that cannot be treated so.

    Example:
        >>> from pliant.backbones import staged_network
        >>> built = dilate(staged_network("resnet18"), 16)
        >>> built.strides, built.network.layer4[0].conv1.dilation
        ((2, 4, 8, 16, 16), (2, 2))

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3.
    """
    if output_stride not in network.strides:
        fail("output_stride", f"must be one of the strides {network.strides}", output_stride, "use 16")
    for name, stage in zip(network.stage_ends, network.strides, strict=True):
        if stage > output_stride:
            for inner, module in _stage_modules(network, name):
                last = name == network.stage_ends[-1]
                _dilate_module(inner, module, dilation if dilation and last else stage // output_stride)
    strides = tuple(min(stride, output_stride) for stride in network.strides)
    seen = tuple(stride for _, stride in outputs_of(network.network, network.stage_ends))
    if seen != strides:
        _refuse(f"stages with strides {seen} where {strides} are wanted")
    return dataclasses.replace(network, strides=strides)


def _stage_modules(network: StagedNetwork, end: str) -> Iterator[tuple[str, nn.Module]]:
    """The innermost modules registered after the stage before the one called `end`, up to its own last one."""
    modules = list(network.network.named_modules())
    index = network.stage_ends.index(end)
    first = _last_of(network.stage_ends[index - 1], modules) + 1 if index else 0
    for name, module in modules[first : _last_of(end, modules) + 1]:
        if not module._modules:
            yield name, module


def _last_of(stage: str, modules: Sequence[tuple[str, nn.Module]]) -> int:
    return max(k for k, (name, _) in enumerate(modules) if name == stage or name.startswith(stage + "."))


def _dilate_module(name: str, module: nn.Module, factor: int) -> None:
    stride = getattr(module, "stride", 1)
    if not isinstance(module, nn.Conv2d):
        if stride not in (1, (1, 1), None):
            _refuse(f"{name}, a {type(module).__name__} of stride {stride}")
        return
    kernel = tuple(module.kernel_size)
    centred = tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, kernel, strict=True))
    even = any(k % 2 == 0 for k in kernel)
    if type(module).forward is not nn.Conv2d.forward or even or module.padding not in (centred, "same"):
        _refuse(f"{name}, a {type(module).__name__} with kernel {kernel} and padding {module.padding}")
    module.stride = (1, 1)
    if kernel != (1, 1):
        module.dilation = (module.dilation[0] * factor, module.dilation[1] * factor)
        if module.padding != "same":
            module.padding = (centred[0] * factor, centred[1] * factor)


def _refuse(got: str) -> None:
    rule = "needs stages that downsample by centred convolutions of odd size alone"
    fix = "leave the stride at 32, or choose a backbone such as resnet50, mobilenet_v2 or timm:resnet50"
    fail("output_stride", rule, got, fix)
