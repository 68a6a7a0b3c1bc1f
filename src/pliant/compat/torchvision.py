# SPDX-License-Identifier: Apache-2.0
"""torchvision's deformable convolution, run on pliant's: its layer, and its function in programs already written."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torchvision.ops
from torch import Tensor
from torchvision.ops import deform_conv as _module

from pliant.ops import deform_conv2d

__all__ = ["DeformConv2d", "patch", "patched", "unpatch"]

_ORIGINAL = _module.deform_conv2d
_PLACES = (torchvision.ops, _module)


def patch() -> list[str]:
    """Let `torchvision.ops.deform_conv2d`, and with it `torchvision.ops.DeformConv2d`, run on pliant.

    Modules that imported the function by name before keep torchvision's; they are warned of and returned. Import them
    after this call. Patching twice changes nothing.

    Returns:
        The names of those modules.

    Example:
        >>> import torchvision, pliant.ops
        >>> from pliant.compat.torchvision import patch, unpatch
        >>> _ = patch()
        >>> torchvision.ops.deform_conv2d is pliant.ops.deform_conv2d
        True
        >>> unpatch()
    """
    for place in _PLACES:
        place.deform_conv2d = deform_conv2d
    kept = holders()
    if kept:
        warnings.warn(
            f"pliant.compat.torchvision.patch: {', '.join(kept)} imported deform_conv2d by name before and keep "
            "torchvision's; import them after patch()",
            stacklevel=2,
        )
    return kept


def unpatch() -> None:
    """Put torchvision's own function back. Without a `patch` before, it changes nothing.

    Example:
        >>> import torchvision
        >>> unpatch()
        >>> torchvision.ops.deform_conv2d.__module__
        'torchvision.ops.deform_conv'
    """
    for place in _PLACES:
        place.deform_conv2d = _ORIGINAL


@contextmanager
def patched() -> Iterator[list[str]]:
    """`patch` in a `with` statement, undone at its end; it gives what `patch` returns.

    Example:
        >>> import torch, torchvision
        >>> layer = torchvision.ops.DeformConv2d(3, 4, 3)
        >>> x, offset = torch.rand(1, 3, 6, 7), torch.rand(1, 18, 4, 5)
        >>> with patched():
        ...     y = layer(x, offset)
        >>> torch.allclose(y, layer(x, offset), atol=1e-6)
        True
    """
    kept = patch()
    try:
        yield kept
    finally:
        unpatch()


def holders() -> list[str]:
    """Return the modules that hold torchvision's function under a name of theirs, sorted.

    Example:
        >>> "pliant.compat.torchvision" in holders()
        False
    """
    own = {__name__, *(place.__name__ for place in _PLACES)}
    others = [(name, module) for name, module in list(sys.modules.items()) if name not in own]
    return sorted(name for name, module in others if _holds(vars(module) if isinstance(module, ModuleType) else {}))


def _holds(names: dict[str, object]) -> bool:
    return any(value is _ORIGINAL for value in list(names.values()))


class DeformConv2d(torchvision.ops.DeformConv2d):  # type: ignore[misc]  # torchvision has no annotations
    """torchvision's layer on pliant's operator: it is given its offsets, and its mask, with each call.

    Arguments, parameters and their names are those of `torchvision.ops.DeformConv2d`. `pliant.nn.DeformConv2d` is the
    layer with an offset branch of its own.

    Example:
        >>> import torch
        >>> layer = DeformConv2d(3, 4, 3)
        >>> layer(torch.rand(1, 3, 6, 7), torch.rand(1, 18, 4, 5), torch.rand(1, 9, 4, 5)).shape
        torch.Size([1, 4, 4, 5])
    """

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the deformable convolution of `input` at `offset`, weighed by `mask`."""
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask=mask)
