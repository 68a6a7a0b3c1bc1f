# SPDX-License-Identifier: Apache-2.0
"""Offset branches start at zero whoever resets them, and layers are built as other libraries' users write them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool


def branches(layer: nn.Module) -> list[nn.Module]:
    """Return the last layers of each branch, which are zero at the start."""
    if isinstance(layer, DeformRoIPool):
        return [part[-1] for part in (layer.offset_fc, layer.mask_fc) if part is not None]
    return [layer.conv_offset]  # type: ignore[list-item]


LAYERS = {
    "convolution": lambda: DeformConv2d(4, 6, (3, 2)),
    "v1 pooling": lambda: DeformRoIPool(2, 3, modulated=False),
    "v2 pooling": lambda: DeformRoIPool(2, 3, hidden_channels=5),
    "mmcv pooling": lambda: DeformRoIPool(2, 3, hidden_channels=5, branch="mmcv"),
    "position-sensitive": lambda: DeformPSRoIPool(2, 3, 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_resetting_all_modules_leaves_the_branch_at_zero(name: str) -> None:
    """Parents come before children in `modules()`, so that a child has the last word."""
    layer = LAYERS[name]()
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    for module in nn.Sequential(nn.Conv2d(3, 4, 1), layer).modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for branch in branches(layer):
        assert all(not parameter.any() for parameter in branch.parameters())
    assert all(bool((p != 1).all()) for p in layer.parameters())
    hidden = [m for m in layer.modules() if isinstance(m, nn.Linear) and m not in branches(layer)]
    assert all(0 < m.weight.std() < 0.02 and not m.bias.any() for m in hidden)
    assert len(hidden) == {"v2 pooling": 2, "mmcv pooling": 3}.get(name, 0)


def test_a_layer_from_the_meta_device_starts_like_any_other() -> None:
    layer = DeformConv2d(4, 6, 3, padding=1, device="meta").to_empty(device="cpu")
    for module in layer.modules():
        module.reset_parameters()  # type: ignore[operator]
    x = torch.randn(1, 4, 5, 6)
    expected = nn.functional.conv2d(x, layer.weight / 2, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: DeformConv2d(8, 8, 3, 1, 1, 1, 1, 2), TypeError,  # type: ignore[arg-type]
         "bias: must be True or False; got 2; "
         "write bias=True, for example, and the number of offset groups as offset_groups="),
        (lambda: DeformConv2d(8, 8, 3, deform_groups=2), TypeError,
         "deform_groups: DeformConv2d has no argument of this name; got deform_groups=2; "
         "write offset_groups= in its place"),
        (lambda: DeformConv2d(8, 8, 3, deformable_groups=2), TypeError,
         "deformable_groups: DeformConv2d has no argument of this name; got deformable_groups=2; "
         "write offset_groups= in its place"),
        (lambda: DeformConv2d(8, 8, 3, padding_mode="reflect"), TypeError,
         "padding_mode: DeformConv2d has no argument of this name; got padding_mode='reflect'; "
         "leave it out: a deformable convolution reads zeros outside the image; "
         "for other values pad the input by torch.nn.functional.pad and write padding=0"),
        (lambda: DeformConv2d(8, 8, (3, 2), padding="same"), ValueError,
         "padding: 'same' needs a kernel that takes as many zeros on both sides of the image; "
         "got a kernel of 3x2 with dilation (1, 1); pad the input by torch.nn.functional.pad and write padding=0"),
        (lambda: DeformConv2d(8, 8, 3, 2, padding="same"), ValueError,
         "padding: 'same' needs stride 1, as in torch.nn.Conv2d; got stride (2, 2); give the padding in pixels"),
        (lambda: DeformConv2d(8, 8, 3, padding="full"), ValueError,
         "padding: must be an integer, a pair of integers, 'same' or 'valid'; got 'full'; write padding=1"),
        (lambda: DeformConv2d(8, 8.0, 3), TypeError,  # type: ignore[arg-type]
         "out_channels: must be an integer; got 8.0; write out_channels=1, for example"),
        (lambda: DeformRoIPool(7, 16, 1024, 0.25, 2), ValueError,  # type: ignore[arg-type]
         "spatial_scale: must be cells of the map for one pixel of the boxes; got 1024; "
         "write spatial_scale=1/16 for a map of stride 16, and hidden_channels= by its name"),
        (lambda: DeformRoIPool(7, 16, 0.25, 0.5), TypeError,  # type: ignore[arg-type]
         "sampling_ratio: must be an integer; got 0.5; write sampling_ratio=0, for example"),
        (lambda: DeformPSRoIPool(7, 16, 8, group_size=(3, 3)), TypeError,  # type: ignore[arg-type]
         "group_size: must be an integer; got (3, 3); write group_size=1, for example"),
    ],
)  # fmt: skip
def test_arguments_of_other_libraries(build: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        build()
    assert str(caught.value) == message


def test_padding_by_name_is_that_of_conv2d() -> None:
    x = torch.randn(1, 2, 6, 7)
    for padding, dilation in (("same", (2, 1)), ("valid", (2, 1))):
        layer = DeformConv2d(2, 3, (3, 5), padding=padding, dilation=dilation, modulated=False)
        expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=padding, dilation=dilation)
        torch.testing.assert_close(layer(x), expected)


def test_numbers_of_numpy_and_tensors_without_dimensions() -> None:
    layer = DeformConv2d(np.int64(4), torch.tensor(6), np.int32(3), padding=torch.tensor(1), offset_groups=np.int8(2))  # type: ignore[arg-type]
    assert layer(torch.randn(1, 4, 5, 7)).shape == (1, 6, 5, 7)
    assert repr(layer) == repr(DeformConv2d(4, 6, 3, padding=1, offset_groups=2))
    pool = DeformRoIPool(np.int64(2), 4, np.float32(0.5), np.int64(2), torch.tensor(0.5), hidden_channels=5)  # type: ignore[arg-type]
    assert (pool.spatial_scale, pool.sampling_ratio, pool.gamma) == (0.5, 2, 0.5)


@pytest.mark.parametrize("name", ["pliant.nn", "pliant.ops", "pliant.surgery"])
def test_a_star_import_brings_what_is_public_and_no_module(name: str) -> None:
    package = importlib.import_module(name)
    brought: dict[str, Any] = {}
    exec(f"from {name} import *", brought)
    del brought["__builtins__"]
    assert set(brought) == set(package.__all__)
    assert not any(isinstance(value, ModuleType) for value in brought.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_result_has_its_type(dtype: torch.dtype) -> None:
    """As that of `nn.Conv2d` does; pooling multiplies no matrices and gives its input's type."""
    x = torch.randn(1, 4, 6, 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = DeformConv2d(4, 3, 3)(x.to(dtype))
        assert y.dtype == nn.Conv2d(4, 3, 3)(x.to(dtype)).dtype == torch.bfloat16
        assert DeformRoIPool(2, 4, hidden_channels=5)(x, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]).dtype == torch.float32
