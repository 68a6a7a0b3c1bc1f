# SPDX-License-Identifier: Apache-2.0
"""One convolution to one deformable layer and back: what can be converted, what moves over, what is remembered."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from pliant.nn import DeformConv2d
from pliant.nn.offset_branch import OffsetConv2d

_MODULE_STATE = frozenset(vars(nn.Module()))  # what every module has: parameters, children, hooks, mode
_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)
_ORIGIN = "_converted_from"


@dataclass(frozen=True)
class Options:
    """How a deformable layer differs from the convolution it replaces: the keywords of `DeformConv2d`."""

    modulated: bool
    offset_groups: int
    mask_scale: float
    offset_limit: float | None = None

    @classmethod
    def of(cls, layer: DeformConv2d) -> Options:
        """Return the options that `layer` was built with."""
        return cls(layer.modulated, layer.offset_groups, layer.mask_scale, layer.offset_limit)

    def agree_with(self, other: Options) -> bool:
        """Return whether both give the same layer; v1 layers have no mask, hence no mask scale."""
        return self == other or (not self.modulated and self == replace(other, mask_scale=self.mask_scale))

    def __str__(self) -> str:
        limit = f", offset_limit={self.offset_limit}" if self.offset_limit is not None else ""
        return f"modulated={self.modulated}, offset_groups={self.offset_groups}, mask_scale={self.mask_scale}{limit}"


@dataclass(frozen=True)
class Origin:
    """What a converted layer remembers of its convolution: a plain attribute, copied and pickled along with it."""

    kind: type[nn.Conv2d]
    attributes: dict[str, Any]


def was_converted(module: nn.Module) -> bool:
    """Return whether `module` is a layer that `to_deformable` made."""
    return isinstance(module, DeformConv2d) and _ORIGIN in vars(module)


def forget_convolution(layer: DeformConv2d) -> None:
    """Let `layer` count as made by hand: it no longer computes what its convolution did."""
    vars(layer).pop(_ORIGIN, None)


def why_not(module: nn.Module) -> str | None:
    """Return why `module` cannot become a `DeformConv2d` that computes the same, or None if it can."""
    kind = type(module)
    if isinstance(module, DeformConv2d):
        return "already deformable"
    if not isinstance(module, nn.Conv2d):
        return f"{kind.__module__}.{kind.__qualname__} is not a torch.nn.Conv2d"
    if parametrize.is_parametrized(module):
        return "parametrized; torch.nn.utils.parametrize.remove_parametrizations makes it convertible"
    forwards = ("forward", "_conv_forward")
    if any(getattr(kind, name) is not getattr(nn.Conv2d, name) or name in vars(module) for name in forwards):
        return f"this {kind.__name__} has a forward of its own (padding or weights made at run time, quantization, ...)"
    return _why_not_parameters(module) or _why_not_padding(module)


def _why_not_parameters(conv: nn.Conv2d) -> str | None:
    state = conv._parameters.keys() | conv._buffers.keys() | conv._modules.keys()
    if state != {"weight", "bias"} or conv.weight is None:
        return f"it holds {', '.join(sorted(state))} where weight and bias are expected (weight norm, pruning, ...)"
    if is_lazy(conv.weight):
        return "lazy: its channels are unknown before a first forward pass"
    if not isinstance(conv.weight, nn.Parameter) or not conv.weight.is_floating_point():
        return f"its weight is a {type(conv.weight).__name__} of {conv.weight.dtype}, not a floating-point Parameter"
    return None


def _why_not_padding(conv: nn.Conv2d) -> str | None:
    padding = _padding(conv)
    if padding is None:
        return "padding='same' with an even extent pads one side more than the other"
    if conv.padding_mode != "zeros" and padding != (0, 0):
        return f"padding_mode={conv.padding_mode!r}: a deformable layer reads zeros outside the image"
    return None


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """The zeros on either side of the image, (vertical, horizontal); None where the two sides differ."""
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        vertical, horizontal = (d * (k - 1) for d, k in zip(conv.dilation, conv.weight.shape[2:], strict=True))
        return None if vertical % 2 or horizontal % 2 else (vertical // 2, horizontal // 2)
    vertical, horizontal = (int(p) for p in conv.padding)
    return vertical, horizontal


def blueprint(conv: nn.Conv2d, options: Options) -> DeformConv2d:
    """Return the layer that `conv` would become, without memory: on the meta device, which draws no random numbers."""
    # The weight decides: models adapted by assigning a new weight keep stale in_channels and out_channels.
    out_channels, in_per_group, *kernel_size = conv.weight.shape
    return DeformConv2d(
        in_per_group * conv.groups,
        out_channels,
        kernel_size,
        conv.stride,
        _padding(conv) or (0, 0),
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        **vars(options),
        device="meta",
        dtype=conv.weight.dtype,
    )


def to_deformable(conv: nn.Conv2d, options: Options) -> DeformConv2d:
    """Return the deformable layer with `conv`'s own Parameters, hooks and mode, and a zero offset branch."""
    layer = blueprint(conv, options)
    branch, place = layer.conv_offset, {"device": conv.weight.device, "dtype": conv.weight.dtype}
    sizes = (branch.in_channels, branch.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    layer.conv_offset = OffsetConv2d(*sizes, **place)  # type: ignore[arg-type]
    layer.weight, layer.bias = conv.weight, conv.bias  # type: ignore[assignment]  # Parameters, by `why_not`
    attributes = {name: value for name, value in vars(conv).items() if name not in _MODULE_STATE}
    # Whoever reads `conv.padding_mode`, or an attribute of their own, finds it on the layer too.
    vars(layer).update({name: value for name, value in attributes.items() if name not in vars(layer)})
    vars(layer)[_ORIGIN] = Origin(type(conv), attributes)
    share_hooks(conv, layer)
    return layer.train(conv.training)


def to_convolution(layer: nn.Module) -> nn.Conv2d:
    """Return the convolution that `layer` was made from, with the layer's Parameters and mode and no hooks.

    What pruning and normalization of weights by hooks have registered in the place of `weight` goes along.
    """
    origin: Origin = vars(layer)[_ORIGIN]
    conv = origin.kind.__new__(origin.kind)
    nn.Module.__init__(conv)
    vars(conv).update(origin.attributes)
    for registry in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        vars(conv)[registry].update(vars(layer)[registry])
    vars(conv).update({name: vars(layer)[name] for name in ("weight", "bias") if name in vars(layer)})
    return conv.train(layer.training)


def share_hooks(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the hooks of `source`: the same dictionaries, so that handles taken before still remove them."""
    vars(target).update({name: vars(source)[name] for name in _HOOKS})
    for hook in target._load_state_dict_pre_hooks.values():
        if hook.with_module:  # type: ignore[attr-defined]  # the one kind of hook that remembers its module
            hook.module = weakref.ref(target)  # type: ignore[attr-defined]
