# SPDX-License-Identifier: Apache-2.0
"""DCNv2's layers on pliant: names, argument orders, and that library's own lines of Python beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pliant._check import PliantError
from pliant.compat.dcnv2 import DCN, DCNPooling, DCNv2, DCNv2Pooling
from pliant.ops import deform_ps_roi_pool

torchvision = pytest.importorskip("torchvision")


def test_the_layer_that_is_given_its_offsets() -> None:
    layer = DCNv2(8, 6, (2, 3), (2, 1), (1, 2), (1, 2), 2)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.bias.data = torch.randn(6)
    x, offset, mask = torch.randn(2, 8, 9, 12), torch.randn(2, 24, 5, 12), torch.randn(2, 12, 5, 12)
    geometry = ((2, 1), (1, 2), (1, 2))
    expected = torchvision.ops.deform_conv2d(x, offset, layer.weight, layer.bias, *geometry, mask)
    torch.testing.assert_close(layer(x, offset, mask), expected, rtol=1e-4, atol=1e-4)


def test_the_layer_with_its_own_branch_which_has_no_dilation() -> None:
    layer = DCN(8, 6, 3, 1, 2, dilation=2, deformable_groups=2)
    names = ["weight", "bias", "conv_offset_mask.weight", "conv_offset_mask.bias"]
    assert list(layer.state_dict()) == names
    assert layer.conv_offset_mask.dilation == (1, 1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(*parameter.shape) * 0.2
    plain = DCN(8, 6, 3, 2, 1, deformable_groups=2)
    for parameter in plain.parameters():
        parameter.data = torch.randn(*parameter.shape) * 0.2
    x = torch.randn(2, 8, 9, 12)
    first, second, mask = torch.chunk(plain.conv_offset_mask(x), 3, dim=1)  # that library's own lines
    offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
    expected = torchvision.ops.deform_conv2d(x, offset, plain.weight, plain.bias, 2, 1, 1, mask)
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)


ROIS = torch.tensor([[1.0, 4, 5, 33, 40], [0, 2, 3, 20, 31], [1, 30, 10, 62, 46]])


def test_pooling() -> None:
    x, offset = torch.randn(2, 12, 13, 12), torch.randn(3, 2, 2, 2)
    pool = DCNv2Pooling(0.25, 2, 3, False, 2, None, 3, 0.2)
    expected = deform_ps_roi_pool(x, ROIS, 2, 3, offset, None, 0.25, 2, 2, 3, 0.2)
    assert torch.equal(pool(x, ROIS, offset), expected)
    rigid = DCNv2Pooling(0.25, 2, 3, True, 2, None, 3, 0.2)
    assert torch.equal(rigid(x, ROIS, offset), deform_ps_roi_pool(x, ROIS, 2, 3, None, None, 0.25, 2, 2, 3, 0.2))


def test_pooling_with_layers_of_its_own() -> None:
    layer = DCNPooling(0.25, 2, 5, False, sample_per_part=3, trans_std=0.2, deform_fc_dim=16)
    names = [f"offset_mask_fc.{i}.{what}" for i in (0, 2, 4) for what in ("weight", "bias")]
    assert list(layer.state_dict()) == names
    x = torch.randn(2, 5, 13, 12)
    rigid = deform_ps_roi_pool(x, ROIS, 2, 5, None, None, 0.25, 1, 2, 3, 0.2)
    torch.testing.assert_close(layer(x, ROIS), rigid * 0.5)
    for parameter in layer.parameters():
        parameter.data = torch.randn(*parameter.shape) * 0.3
    out = layer.offset_mask_fc(rigid.view(3, -1)).view(3, 3, 2, 2)
    first, second, mask = torch.chunk(out, 3, dim=1)  # that library's own lines
    offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(mask)
    expected = deform_ps_roi_pool(x, ROIS, 2, 5, offset, None, 0.25, 1, 2, 3, 0.2) * mask
    torch.testing.assert_close(layer(x, ROIS), expected)
    assert torch.equal(DCNPooling(0.25, 2, 5, True, sample_per_part=3)(x, ROIS), rigid)
    with pytest.raises(PliantError, match="part_size: must be pooled_size=2, which the branch predicts; got 3"):
        DCNPooling(0.25, 2, 5, False, part_size=3)


def test_parameters_start_as_in_that_library() -> None:
    layer = DCN(4, 6, 3, 1, 1)
    assert not any(parameter.any() for parameter in layer.conv_offset_mask.parameters())
    assert not layer.bias.any()
    assert layer.weight.abs().max() <= 1 / 6
    assert isinstance(layer, nn.Module)
