# SPDX-License-Identifier: Apache-2.0
"""Which convolutions `where` means: stages of the trunk, the last n, a regular expression, or a predicate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NoReturn

from torch import nn

from pliant._check import fail, suggest
from pliant.nn import DeformConv2d
from pliant.surgery.layer import to_convolution, was_converted

Where = str | Callable[[str, nn.Module], bool]
Names = dict[nn.Module, tuple[str, ...]]

_STAGES = re.compile(r"c([1-5])(?:-c([1-5]))?", re.IGNORECASE)
_LAST = re.compile(r"last([1-9]\d*)")
_RESNET_STAGE = re.compile(r"(?:^|\.)layer([1-4])(?:\.|$)")
# Repeats of single characters take at most (length of a name) ^ (their number) steps, alternatives 2 ^ theirs.
_MOST_REPEATS = 4
_MOST_CHOICES = 16
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?P=|\(\?[:=!<>P]?|.", re.DOTALL)
_OTHER_WAYS = "name stages ('c3-c5') or a count ('last3'), or give a regular expression or a predicate"


def select(model: nn.Module, where: Where) -> Names:
    """Return the convolutions of `model` that `where` means, in registration order, each with all its names."""
    names = convolution_names(model)
    if not names:
        fail("model", "must hold a convolution", type(model).__name__, "give a convolutional model")
    if not isinstance(where, str):
        chosen = _by_predicate(names, where)
    elif match := _STAGES.fullmatch(where):
        chosen = _by_stages(model, names, int(match[1]), int(match[2] or match[1]), where)
    elif match := _LAST.fullmatch(where):
        chosen = _last(model, int(match[1]))
    else:
        chosen = _by_regex(model, names, where)
    return {conv: names[conv] for conv in names if conv in chosen}


def convolution_names(model: nn.Module) -> Names:
    """Return every convolution of `model` once, with all the names it is registered under."""
    names: Names = {}
    for name, conv in _named_convolutions(model):
        names[conv] = (*names.get(conv, ()), name)
    return names


def _named_convolutions(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield every path to a convolution, also those that lead to the same one; what is inside one is part of it."""
    if _is_convolution(module):
        yield name, module
        return
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _named_convolutions(child, f"{name}.{child_name}" if name else child_name)


def _is_convolution(module: nn.Module) -> bool:
    # Quantized and foreign convolutions are to be named in the plan too; blocks that record a kernel_size are none.
    if isinstance(module, nn.modules.conv._ConvNd | DeformConv2d):
        return True
    return not module._modules and hasattr(module, "kernel_size") and hasattr(module, "in_channels")


def is_spatial(conv: nn.Module) -> bool:
    """Return whether `conv` has more than one tap."""
    return _largest(conv.kernel_size) > 1


def _largest(size: object) -> int:
    return int(max(size)) if isinstance(size, tuple | list) else int(size)  # type: ignore[call-overload]


def _by_predicate(names: Names, where: Callable[[str, nn.Module], bool]) -> set[nn.Module]:
    if not callable(where):
        fail("where", "must be text or a predicate (name, module) -> bool", repr(where), _OTHER_WAYS, kind=TypeError)
    chosen = set()
    for conv, own_names in names.items():
        # A converted layer is shown as the convolution it was, or `isinstance(m, nn.Conv2d)` would not match twice.
        shown = to_convolution(conv) if was_converted(conv) else conv
        if any(where(name, shown) for name in own_names):
            chosen.add(conv)
    if not chosen:
        got = f"a predicate that is false for all {len(names)}"
        fail("where", "must be true for a convolution", got, _known_names(names))
    return chosen


def _by_regex(model: nn.Module, names: Names, where: str) -> set[nn.Module]:
    _refuse_slow(where)
    try:
        pattern = re.compile(where)
    except (re.error, OverflowError, RecursionError) as error:
        fail("where", f"must be a regular expression ({error})", repr(where), _OTHER_WAYS)
    chosen = {conv for conv, own_names in names.items() if where and any(map(pattern.search, own_names))}
    if not chosen:
        _fail_no_match(model, names, where, pattern)
    return chosen


def _refuse_slow(where: str) -> None:
    """Refuse an expression that could take years: a stranger's configuration may hold any, and `re` knows no limit."""
    depth = repeats = choices = 0
    before = ""
    for piece in _PIECE.findall(where):
        depth += (piece[0] == "(") - (piece == ")")
        repeats += piece in ("*", "+", "?", "{")
        choices += piece == "|" and depth > 0
        nested = before == ")" and piece in ("*", "+", "{")
        if nested or repeats > _MOST_REPEATS or choices > _MOST_CHOICES or re.fullmatch(r"\\[1-9]|\(\?P=", piece):
            rule = f"must repeat no group, refer to none, and have at most {_MOST_REPEATS} of *, +, ? and {{"
            fail("where", f"{rule} and {_MOST_CHOICES} alternatives in groups", f"{where!r:.80}", _OTHER_WAYS)
        before = piece


def _fail_no_match(model: nn.Module, names: Names, where: str, pattern: re.Pattern[str]) -> NoReturn:
    flat = [name for own_names in names.values() for name in own_names]
    letters = re.sub(r"[\\^$*+?()\[\]{}|]", "", where)
    others = [f"{n} ({type(m).__name__})" for n, m in model.named_modules() if where and n and pattern.search(n)]
    reached = f" It matches {others[0]}, which is no convolution." if others else ""
    fix = _known_names(names) + "." + reached + suggest(letters, flat)
    fail("where", "must match the name of a convolution", repr(where), fix)


def _known_names(names: Names) -> str:
    first = [own_names[0] or "'' (the model itself)" for own_names in names.values()]
    more = f" and {len(first) - 4} more" if len(first) > 4 else ""
    return f"the convolutions are called {', '.join(first[:4])}{more}"


def _last(model: nn.Module, count: int) -> set[nn.Module]:
    spatial = [conv for conv in convolution_names(_trunk(model)) if is_spatial(conv)]
    if count > len(spatial):
        rule = f"must ask for no more convolutions larger than 1x1 than the model has, which is {len(spatial)}"
        fail("where", rule, f"'last{count}'", f"use 'last{len(spatial)}' or fewer")
    return set(spatial[-count:])


def _by_stages(model: nn.Module, names: Names, first: int, last: int, where: str) -> set[nn.Module]:
    if first > last:
        fail("where", "must name the finer stage first", repr(where), f"use 'c{last}-c{first}'")
    stages = _resnet_stages(names) or _stages_by_stride(_trunk(model))
    found = sorted({stage for conv, stage in stages.items() if is_spatial(conv)})
    missing = [f"c{stage}" for stage in range(first, last + 1) if stage not in found]
    if missing:
        has = ", ".join(f"c{stage}" for stage in found) or "none"
        rule = f"must name stages with convolutions larger than 1x1, which are {has}"
        fix = f"{', '.join(missing)} not found; convert a wrapped trunk alone (model.encoder, say), or {_OTHER_WAYS}"
        fail("where", rule, repr(where), fix)
    return {conv for conv, stage in stages.items() if first <= stage <= last and is_spatial(conv)}


def _resnet_stages(names: Names) -> dict[nn.Module, int]:
    """C2 to C5 are `layer1` to `layer4`: by name, since the dilated ResNets of segmentation keep a stride of 8."""
    matches = ((conv, _RESNET_STAGE.search(name)) for conv, own_names in names.items() for name in own_names)
    return {conv: int(match[1]) + 1 for conv, match in matches if match}


def _stages_by_stride(trunk: nn.Module) -> dict[nn.Module, int]:
    """Cn is what a block whose output has stride 2**n holds; the stride is the product over the blocks up to it."""
    stages: dict[nn.Module, int] = {}
    stride = 1
    for block in _blocks(trunk):
        stride *= max(_stride(module) for module in block.modules())
        if stride & (stride - 1) == 0:
            stages.update({conv: stride.bit_length() - 1 for conv in convolution_names(block)})
    return stages


def _blocks(trunk: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks that run one after another: containers are opened, anything else is one block.

    Inside a block branches may run side by side (a shortcut beside the body), so its stride is its largest one.
    """
    for child in trunk.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child)
        else:
            yield child


def _stride(module: nn.Module) -> int:
    stride = getattr(module, "stride", 1)
    # Blocks often record a `stride` of their own, which is that of a convolution or pooling in them.
    downsamples = not module._modules and isinstance(stride, int | tuple | list)
    return _largest(stride) if downsamples and not getattr(module, "transposed", False) else 1


def _trunk(model: nn.Module) -> nn.Module:
    """Return the part that has stages: `backbone.body` of a detector, the only convolutional child, or `model`."""
    inner = [model._modules[name] for name in ("backbone", "body") if model._modules.get(name) is not None]
    inner = inner or [child for child in model.children() if convolution_names(child)]
    if len(inner) != 1 or inner[0] is None or _is_convolution(inner[0]) or _is_convolution(model):
        return model
    return _trunk(inner[0])
