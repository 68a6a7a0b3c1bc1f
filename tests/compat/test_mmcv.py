# SPDX-License-Identifier: Apache-2.0
"""mmcv's layers and functions on pliant: argument orders, names, and values by torchvision and mmcv's own example."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pliant._check import PliantError
from pliant.compat import mmcv

torchvision = pytest.importorskip("torchvision")


GEOMETRY = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
X, SIZE = (2, 8, 9, 12), (5, 12)  # for a 2 x 3 kernel


def test_functions_take_mmcvs_orders() -> None:
    x, offset, mask, weight, bias = (
        torch.randn(*X),
        torch.randn(2, 24, *SIZE),
        torch.randn(2, 12, *SIZE),
        torch.randn(6, 4, 2, 3),
        torch.randn(6),
    )
    expected = torchvision.ops.deform_conv2d(x, offset, weight, None, **GEOMETRY)
    got = mmcv.deform_conv2d(x, offset, weight, (2, 1), (1, 2), (1, 2), 2, 2, False, 64)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, bias, **GEOMETRY, mask=mask)
    got = mmcv.modulated_deform_conv2d(x, offset, mask, weight, bias, (2, 1), (1, 2), (1, 2), 2, 2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(PliantError, match="deform_groups: must be 2, as the shapes .* say; got 1; pass 2"):
        mmcv.deform_conv2d(x, offset, weight, (2, 1), (1, 2), (1, 2), 2)
    with pytest.raises(PliantError, match="bias: must be False for DCNv1, as in mmcv; got True"):
        mmcv.deform_conv2d(x, offset, weight, bias=True)


def test_layers_that_are_given_their_offsets() -> None:
    x, offset, mask = torch.randn(*X), torch.randn(2, 24, *SIZE), torch.randn(2, 12, *SIZE)
    layer = mmcv.DeformConv2d(8, 6, (2, 3), (2, 1), (1, 2), (1, 2), 2, 2)
    assert list(layer.state_dict()) == ["weight"]
    expected = torchvision.ops.deform_conv2d(x, offset, layer.weight, None, **GEOMETRY)
    torch.testing.assert_close(layer(x, offset), expected, rtol=1e-4, atol=1e-4)
    modulated = mmcv.ModulatedDeformConv2d(8, 6, (2, 3), (2, 1), (1, 2), (1, 2), 2, 2)
    assert list(modulated.state_dict()) == ["weight", "bias"]
    modulated.bias.data = torch.randn(6)
    expected = torchvision.ops.deform_conv2d(x, offset, modulated.weight, modulated.bias, **GEOMETRY, mask=mask)
    torch.testing.assert_close(modulated(x, offset, mask), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_packs_have_mmcvs_names_and_orders(kind: str) -> None:
    built: dict[str, type[nn.Module]] = {}

    class Models:
        def register_module(self, *, name: str, force: bool, module: type[nn.Module]) -> None:
            assert force
            built[name] = module

    mmcv.register(Models())
    layer = built[kind](8, 6, (2, 3), (2, 1), (1, 2), (1, 2), 2, 2)
    names = ["weight", *(["bias"] if kind == "DCNv2" else []), "conv_offset.weight", "conv_offset.bias"]
    assert sorted(layer.state_dict()) == sorted(names)
    assert not layer.conv_offset.weight.any()
    layer.conv_offset.weight.data, layer.conv_offset.bias.data = (
        torch.randn(*p.shape) * 0.1 for p in (layer.conv_offset.weight, layer.conv_offset.bias)
    )
    x = torch.randn(*X)
    out = nn.functional.conv2d(x, layer.conv_offset.weight, layer.conv_offset.bias, **GEOMETRY)
    if kind == "DCN":
        expected = torchvision.ops.deform_conv2d(x, out, layer.weight, None, **GEOMETRY)
    else:
        first, second, mask = torch.chunk(out, 3, dim=1)  # mmcv's own lines
        offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
        expected = torchvision.ops.deform_conv2d(x, offset, layer.weight, layer.bias, **GEOMETRY, mask=mask)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


BOXES = torch.tensor([[1.0, 2.3, 5.1, 33.7, 40.2], [0.0, -6.0, 3.0, 20.5, 31.0], [1.0, 30.3, 10.7, 62.3, 46.7]])


@pytest.mark.parametrize("modulated", [False, True])
def test_region_pooling_packs(modulated: bool) -> None:
    kind = mmcv.ModulatedDeformRoIPoolPack if modulated else mmcv.DeformRoIPoolPack
    layer = kind((3, 4), 5, 16, 0.25, 2, 0.2)
    names = [f"offset_fc.{i}.{what}" for i in (0, 2, 4) for what in ("weight", "bias")]
    names += [f"mask_fc.{i}.{what}" for i in (0, 2) for what in ("weight", "bias")] if modulated else []
    assert list(layer.state_dict()) == names
    for parameter in layer.parameters():
        parameter.data = torch.randn(*parameter.shape) * 0.3
    x = torch.randn(2, 5, 13, 12)
    plain = torchvision.ops.roi_align(x, BOXES, (3, 4), 0.25, 2, aligned=True).flatten(1)
    offset = layer.offset_fc(plain).view(3, 2, 3, 4)
    expected = mmcv.DeformRoIPool((3, 4), 0.25, 2, 0.2)(x, BOXES, offset)
    if modulated:
        expected = expected * torch.sigmoid(layer.mask_fc(plain).view(3, 1, 3, 4))
    torch.testing.assert_close(layer(x, BOXES), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected.flatten(1), plain, atol=0.1)


def test_region_pooling_by_mmcvs_own_example() -> None:
    """mmcv's tests/test_ops/test_deform_roi_pool.py: its third input."""
    x = torch.tensor(
        [[[[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0], [9.0, 10.0, 13.0, 14.0], [11.0, 12.0, 15.0, 16.0]]]]
    )
    rois = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
    empty = x.new_zeros(0)
    got = mmcv.deform_roi_pool(x, rois, empty, (2, 2), 1.0, 2, 0.1)
    expected = torchvision.ops.roi_align(x, rois, (2, 2), 1.0, 2, aligned=True)
    torch.testing.assert_close(got, expected)
    moved = mmcv.deform_roi_pool(
        x, rois, torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[5.0, 0.0], [0.0, 0.0]]]]), (2, 2), 1.0, 2, 0.1
    )
    down = torchvision.ops.roi_align(x, rois + torch.tensor([0, 0, 1.5, 0, 1.5]), (2, 2), 1.0, 2, aligned=True)
    torch.testing.assert_close(moved[0, 0, 0, 0], down[0, 0, 0, 0])
