# SPDX-License-Identifier: Apache-2.0
"""The layer with its own offset branch: how it starts, what it is called, how it is saved, that it learns."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pliant.nn import DeformConv2d
from pliant.ops import deform_conv2d

# No two axes alike; (in, out, kernel) and the rest.
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (2, 1)},
    {"kernel_size": (1, 5), "stride": (1, 3), "padding": (0, 4), "dilation": (1, 2), "groups": 2},
    {"kernel_size": (2, 3), "groups": 3, "offset_groups": 2, "bias": False},
    {"kernel_size": 3, "padding": 1, "offset_groups": 3},
]


def randomised(layer: DeformConv2d) -> DeformConv2d:
    """Give the offset branch something to say."""
    with torch.no_grad():
        layer.conv_offset.weight.normal_(std=0.1)
        assert layer.conv_offset.bias is not None
        layer.conv_offset.bias.normal_(std=0.5)
    return layer


def plain(layer: DeformConv2d, x: Tensor, factor: float = 1.0) -> Tensor:
    return conv2d(x, layer.weight * factor, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@pytest.mark.parametrize("arguments", GEOMETRIES)
@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 0.5), ({"mask_scale": 2.0}, 1.0), ({"modulated": False}, 1.0), ({"mask_scale": 0.5}, 0.25)],
)
def test_starts_as_the_plain_convolution_times_the_first_mask(
    arguments: dict[str, Any], options: dict[str, Any], factor: float
) -> None:
    """Sigmoid starts at 1/2: the paper's layer is half of the convolution at first, the official code's all of it."""
    layer = DeformConv2d(6, 12, **arguments, **options).double()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    assert layer.weight.std() > 0.01
    torch.testing.assert_close(layer(x), plain(layer, x, factor), rtol=1e-10, atol=1e-10)


def test_the_offset_branch_starts_at_zero_and_has_a_bias() -> None:
    layer = DeformConv2d(6, 4, 3, bias=False)
    assert not layer.conv_offset.weight.any()
    assert layer.conv_offset.bias is not None and not layer.conv_offset.bias.any()
    randomised(layer).reset_parameters()
    assert not layer.conv_offset.weight.any() and not layer.conv_offset.bias.any()


def test_weights_start_as_those_of_a_plain_convolution() -> None:
    """Uniform within 1/sqrt(fan-in), weight and bias."""
    layer = DeformConv2d(40, 60, (3, 2), groups=2)
    bound = (20 * 6) ** -0.5
    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        assert 0.9 * bound < parameter.abs().max() <= bound
        assert parameter.mean().abs() < 0.3 * bound


@pytest.mark.parametrize(("modulated", "maps"), [(True, 3), (False, 2)])
def test_names_and_shapes_are_mmcvs(modulated: bool, maps: int) -> None:
    layer = DeformConv2d(6, 4, (3, 2), groups=2, offset_groups=3, modulated=modulated)
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "weight": (4, 3, 3, 2),
        "bias": (4,),
        "conv_offset.weight": (maps * 3 * 6, 6, 3, 2),
        "conv_offset.bias": (maps * 3 * 6,),
    }


def test_channels_of_the_branch_are_all_offsets_then_all_masks() -> None:
    """A checkpoint of mmcv's ModulatedDeformConv2dPack, whose forward chunks in three, joins two, takes a sigmoid."""
    G, K = 2, 6
    state = {
        "weight": torch.randn(5, 4, 3, 2),
        "bias": torch.randn(5),
        "conv_offset.weight": torch.randn(3 * G * K, 4, 3, 2) * 0.2,
        "conv_offset.bias": torch.randn(3 * G * K),
    }
    layer = DeformConv2d(4, 5, (3, 2), (2, 1), (1, 0), (1, 2), offset_groups=G)
    layer.load_state_dict(state, strict=True)
    x = torch.randn(2, 4, 9, 8)
    fused = conv2d(x, state["conv_offset.weight"], state["conv_offset.bias"], (2, 1), (1, 0), (1, 2))
    first, second, third = torch.chunk(fused, 3, dim=1)
    offset, mask = torch.cat((first, second), dim=1), torch.sigmoid(third)
    expected = deform_conv2d(x, offset, state["weight"], state["bias"], (2, 1), (1, 0), (1, 2), mask, impl="reference")
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    found_offset, found_mask = layer.offset_and_mask(x)
    assert torch.equal(found_offset, offset)
    assert found_mask is not None and torch.equal(found_mask, mask)


@pytest.mark.parametrize("arguments", GEOMETRIES)
@pytest.mark.parametrize("modulated", [True, False])
def test_gradients_reach_every_parameter(arguments: dict[str, Any], modulated: bool) -> None:
    layer = DeformConv2d(6, 12, **arguments, modulated=modulated)
    layer(torch.randn(2, 6, 9, 8)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().max() > 1e-6, name


def test_the_branch_learns_a_shift() -> None:
    """The image moved by (0.4, -0.3) pixels; a 1x1 layer of fixed weight 1 can only answer through its offsets."""
    g = torch.Generator().manual_seed(1)
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    phases = torch.rand(4, 2, 1, 1, generator=g) * 6
    image = (torch.sin(rows / 3 + phases[:, :1]) + torch.cos(columns / 2.5 + phases[:, 1:])).view(4, 1, 24, 20)
    moved = (torch.sin((rows + 0.4) / 3 + phases[:, :1]) + torch.cos((columns - 0.3) / 2.5 + phases[:, 1:])).view(
        4, 1, 24, 20
    )
    layer = DeformConv2d(1, 1, 1, bias=False, modulated=False)
    layer.weight.data.fill_(1.0)
    optimiser = torch.optim.Adam([layer.conv_offset.bias], lr=0.05)
    inner = (..., slice(2, -2), slice(2, -2))
    for _ in range(80):
        loss = (layer(image) - moved)[inner].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(layer.conv_offset.bias.detach(), torch.tensor([0.4, -0.3]), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((6, 4, 3), "6, 4, kernel_size=(3, 3), stride=(1, 1), mask_scale=1.0"),
        (
            (6, 4, (3, 2), (2, 1), (1, 0), (1, 2), 2, False),
            "6, 4, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, "
            "bias=False, mask_scale=1.0",
        ),
    ],
)
def test_repr_says_what_it_is(arguments: tuple[Any, ...], text: str) -> None:
    assert repr(DeformConv2d(*arguments)).splitlines()[1].strip() == text


def test_repr_of_v1() -> None:
    assert "offset_groups=2, modulated=False" in repr(DeformConv2d(6, 4, 3, offset_groups=2, modulated=False))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_copies_compute_the_same_and_share_nothing(way: str) -> None:
    layer = randomised(DeformConv2d(6, 4, (3, 2), (2, 1), offset_groups=2, mask_scale=2.0))
    if way == "deepcopy":
        other = copy.deepcopy(layer)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other = DeformConv2d(6, 4, (3, 2), (2, 1), offset_groups=2, mask_scale=2.0)
        other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 6, 9, 8)
    before = layer(x)
    assert torch.equal(other(x), before)
    other.weight.data.zero_()
    assert torch.equal(layer(x), before)


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    layer = randomised(DeformConv2d(6, 4, (3, 2), (2, 1), offset_groups=2))
    x = torch.randn(2, 6, 9, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    found = torch.autograd.grad(compiled(x).square().sum(), list(layer.parameters()))
    for name, w, f in zip(dict(layer.named_parameters()), wanted, found, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("modulated", [True, False])
def test_limited_offsets_are_a_tanh_of_those_of_the_branch(modulated: bool) -> None:
    free = randomised(DeformConv2d(6, 4, (3, 2), offset_groups=2, modulated=modulated))
    bound = DeformConv2d(6, 4, (3, 2), offset_groups=2, modulated=modulated, offset_limit=1.5)
    bound.load_state_dict(free.state_dict())
    x = torch.randn(2, 6, 9, 8) * 10
    (wide, mask), (narrow, same) = free.offset_and_mask(x), bound.offset_and_mask(x)
    assert wide.abs().max() > 1.5 >= narrow.abs().max()
    torch.testing.assert_close(narrow, 1.5 * (wide / 1.5).tanh())
    assert (mask is None and same is None) or torch.equal(mask, same)
    torch.testing.assert_close(bound(x), deform_conv2d(x, narrow, bound.weight, bound.bias, mask=mask))
    assert bound.offset_and_mask(x * 0)[0].isfinite().all()
    assert "offset_limit=1.5" in repr(bound) and "offset_limit" not in repr(free)


def test_one_image_without_a_batch_dimension() -> None:
    layer = randomised(DeformConv2d(6, 4, 3, padding=1))
    x = torch.randn(2, 6, 9, 8)
    assert layer(x[1]).shape == (4, 9, 8)
    torch.testing.assert_close(layer(x[1]), layer(x)[1])


def test_channels_last_stays_channels_last() -> None:
    layer = randomised(DeformConv2d(6, 4, 3, padding=1))
    x = torch.randn(2, 6, 9, 8).contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_factory_arguments(dtype: torch.dtype) -> None:
    layer = DeformConv2d(6, 4, 3, dtype=dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert layer(torch.randn(1, 6, 5, 5, dtype=dtype)).dtype == dtype
    assert {p.device.type for p in DeformConv2d(6, 4, 3, device="meta").parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels: must be at least 1; got 0; use 1 or more"),
        ({"out_channels": -1}, "out_channels: must be at least 1; got -1; use 1 or more"),
        ({"groups": 4}, "groups: must divide in_channels=6 and out_channels=4; got 4; use 1, or a common divisor"),
        ({"groups": 3}, "groups: must divide in_channels=6 and out_channels=4; got 3; use 1, or a common divisor"),
        ({"offset_groups": 4}, "offset_groups: must divide in_channels=6; got 4; use 1, or a common divisor"),
        ({"offset_groups": 0}, "offset_groups: must divide in_channels=6; got 0; use 1, or a common divisor"),
        ({"kernel_size": (3, 0)}, "kernel_size: must be at least 1; got (3, 0); use 1 or more"),
        ({"mask_scale": 0.0}, "mask_scale: must be positive; got 0.0; use 1.0 (paper) or 2.0 (official code)"),
        (
            {"offset_limit": 0.0},
            "offset_limit: must be positive; got 0.0; give pixels of the input, or None for no limit",
        ),
        ({"mask_scale": float("nan")}, "mask_scale: must be positive; got nan; use 1.0 (paper) or 2.0 (official code)"),
    ],
)
def test_message(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        DeformConv2d(**{"in_channels": 6, "out_channels": 4, "kernel_size": 3, **arguments})
    assert str(caught.value) == message
