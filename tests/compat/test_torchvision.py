# SPDX-License-Identifier: Apache-2.0
"""Programs that call torchvision's deformable convolution, on pliant's."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

pytest.importorskip("torchvision")
import torchvision

from pliant import ops
from pliant.compat.torchvision import DeformConv2d, patch, patched, unpatch

ORIGINAL = {"function": torchvision.ops.deform_conv2d}  # not by a name, which patching would tell of


def arguments() -> tuple[torch.Tensor, ...]:
    """Image, offset for a 2 x 3 kernel with two offset groups, mask."""
    random = torch.Generator().manual_seed(3)
    shapes = ((2, 4, 7, 9), (2, 24, 6, 7), (2, 12, 6, 7))
    return tuple(torch.randn(shape, generator=random) for shape in shapes)


def test_patching_serves_function_and_layer_and_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = torch.ops.pliant.deform_conv2d
    layer = torchvision.ops.DeformConv2d(4, 6, (2, 3), groups=2)
    x, offset, mask = arguments()
    expected = layer(x, offset, mask)
    with patched() as kept:
        assert kept == []
        assert torchvision.ops.deform_conv2d is ops.deform_conv2d
        monkeypatch.setattr(torch.ops.pliant, "deform_conv2d", lambda *a: calls.append("pliant") or real(*a))
        got = layer(x, offset, mask)
        other = torchvision.ops.deform_conv2d(x, offset, layer.weight, layer.bias, mask=mask)
    assert calls == ["pliant", "pliant"]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5)
    assert torchvision.ops.deform_conv2d is ORIGINAL["function"]
    layer(x, offset, mask)
    assert len(calls) == 2


def test_who_imported_the_function_before_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    program = ModuleType("old_program")
    vars(program)["convolve"] = ORIGINAL["function"]
    monkeypatch.setitem(sys.modules, "old_program", program)
    try:
        with pytest.warns(UserWarning, match="patch: old_program imported deform_conv2d by name before and keep"):
            assert patch() == ["old_program"]
    finally:
        unpatch()
    unpatch()
    assert torchvision.ops.deform_conv2d is ORIGINAL["function"]


def test_patching_is_undone_after_an_error() -> None:
    with pytest.raises(KeyError), patched():
        raise KeyError
    assert torchvision.ops.deform_conv2d is ORIGINAL["function"]


def test_the_layer_is_torchvisions() -> None:
    theirs = torchvision.ops.DeformConv2d(4, 6, (2, 3), groups=2)
    ours = DeformConv2d(4, 6, (2, 3), groups=2)
    ours.load_state_dict(theirs.state_dict())
    x, offset, mask = arguments()
    torch.testing.assert_close(ours(x, offset, mask), theirs(x, offset, mask), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(x, offset), theirs(x, offset), rtol=1e-5, atol=1e-5)
