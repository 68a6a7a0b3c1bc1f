# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling as a layer: how it starts, what its branch says, which state dicts it takes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu
from torchvision.ops import roi_align

from pliant.nn import DeformRoIPool

SIZE = (3, 2)
BINS = 6
CHANNELS = 5
# Image index and corners in pixels; the map has stride 4. No two sides are alike, one region leaves the image.
BOXES = torch.tensor([[1, 8.0, 4.0, 45.0, 30.0], [0, 3.5, 10.0, 21.0, 61.0], [1, -9.0, 33.0, 80.0, 75.0]])
MAPS = torch.rand(2, CHANNELS, 17, 19, generator=torch.Generator().manual_seed(5))


def randomised(layer: nn.Module, std: float = 0.3) -> nn.Module:
    """Give every parameter something to say."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=std)
    return layer


def build(**options: Any) -> DeformRoIPool:
    return DeformRoIPool(SIZE, CHANNELS, 0.25, 2, **{"hidden_channels": 8, **options})


def plain(input: Tensor, boxes: Tensor, sampling_ratio: int = 2) -> Tensor:
    return roi_align(input, boxes, SIZE, 0.25, sampling_ratio, aligned=True)


def shifted(input: Tensor, boxes: Tensor, offset: Tensor, gamma: float) -> Tensor:
    """Pool with offsets (R, 2, Ph, Pw), by RoIAlign alone: bin k of the region that is moved as bin k is to be."""
    width, height = boxes[:, 3] - boxes[:, 1], boxes[:, 4] - boxes[:, 2]
    pooled = input.new_zeros(len(boxes), input.shape[1], *SIZE)
    for i, j in itertools.product(range(SIZE[0]), range(SIZE[1])):
        dx, dy = gamma * width * offset[:, 0, i, j], gamma * height * offset[:, 1, i, j]
        moved = boxes + torch.stack([torch.zeros_like(dx), dx, dy, dx, dy], dim=1)
        pooled[:, :, i, j] = plain(input, moved)[:, :, i, j]
    return pooled


@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
@pytest.mark.parametrize("branch", ["paper", "mmcv"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_starts_as_roi_align_times_the_first_mask(
    modulated: bool, factor: float, branch: str, sampling_ratio: int
) -> None:
    """The sigmoid starts at 1/2, as in the v2 paper: the layer is half of RoIAlign at first."""
    layer = DeformRoIPool(SIZE, CHANNELS, 0.25, sampling_ratio, modulated=modulated, branch=branch)
    torch.testing.assert_close(layer(MAPS, BOXES), factor * plain(MAPS, BOXES, sampling_ratio), rtol=1e-5, atol=1e-6)


def test_first_version_is_one_layer_with_all_x_before_all_y() -> None:
    layer = randomised(build(modulated=False, gamma=0.3), std=0.6)
    weight, bias = layer.state_dict().values()
    assert list(layer.state_dict()) == ["offset_fc.0.weight", "offset_fc.0.bias"]
    assert tuple(weight.shape) == (2 * BINS, CHANNELS * BINS)
    flat = plain(MAPS, BOXES).reshape(3, -1)
    offset = (flat @ weight.T + bias).reshape(3, 2, *SIZE)
    assert offset.abs().max() > 1  # a shift of 30 % of a side and more
    torch.testing.assert_close(layer(MAPS, BOXES), shifted(MAPS, BOXES, offset, 0.3), rtol=1e-4, atol=1e-5)


def test_second_version_shares_two_hidden_layers_between_offsets_and_weights() -> None:
    layer = randomised(build())
    tensors = list(layer.state_dict().values())
    shapes = [(8, CHANNELS * BINS), (8,), (8, 8), (8,), (3 * BINS, 8), (3 * BINS,)]
    assert [tuple(t.shape) for t in tensors] == shapes
    hidden = plain(MAPS, BOXES).reshape(3, -1)
    for weight, bias in (tensors[:2], tensors[2:4]):
        hidden = relu(linear(hidden, weight, bias))
    raw = linear(hidden, *tensors[4:])
    offset, mask = raw[:, : 2 * BINS].reshape(3, 2, *SIZE), raw[:, 2 * BINS :].reshape(3, 1, *SIZE).sigmoid()
    expected = shifted(MAPS, BOXES, offset, 0.1) * mask
    torch.testing.assert_close(layer(MAPS, BOXES), expected, rtol=1e-4, atol=1e-5)
    found_offset, found_mask = layer.offset_and_mask(MAPS, BOXES)
    torch.testing.assert_close(found_offset, offset, rtol=1e-4, atol=1e-5)
    assert found_mask is not None
    torch.testing.assert_close(found_mask, mask, rtol=1e-4, atol=1e-5)


def mmcv_state(modulated: bool) -> dict[str, Tensor]:
    """A state dict with the keys and shapes of mmcv's DeformRoIPoolPack, or ModulatedDeformRoIPoolPack."""
    pooled, hidden = CHANNELS * BINS, 8
    shapes = {
        "offset_fc.0.weight": (hidden, pooled),
        "offset_fc.0.bias": (hidden,),
        "offset_fc.2.weight": (hidden, hidden),
        "offset_fc.2.bias": (hidden,),
        "offset_fc.4.weight": (2 * BINS, hidden),
        "offset_fc.4.bias": (2 * BINS,),
    }
    if modulated:
        shapes |= {
            "mask_fc.0.weight": (hidden, pooled),
            "mask_fc.0.bias": (hidden,),
            "mask_fc.2.weight": (BINS, hidden),
            "mask_fc.2.bias": (BINS,),
        }
    return {name: 0.4 * torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("modulated", [False, True])
def test_takes_the_weights_of_mmcv(modulated: bool) -> None:
    """mmcv's forward: three layers for the offsets; two beside them for the weights, which multiply what is pooled."""
    state = mmcv_state(modulated)
    layer = build(modulated=modulated, branch="mmcv")
    layer.load_state_dict(state, strict=True)
    flat = plain(MAPS, BOXES).reshape(3, -1)

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    raw = dense(relu(dense(relu(dense(flat, "offset_fc.0")), "offset_fc.2")), "offset_fc.4")
    expected = shifted(MAPS, BOXES, raw.reshape(3, 2, *SIZE), 0.1)
    if modulated:
        expected = expected * dense(relu(dense(flat, "mask_fc.0")), "mask_fc.2").sigmoid().reshape(3, 1, *SIZE)
    torch.testing.assert_close(layer(MAPS, BOXES), expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_as_many_as_the_papers_branches_have() -> None:
    """For 7x7 bins of 256 channels: 1.229 million in v1's one layer, 14.05 million in v2's three."""
    counts = [
        sum(p.numel() for p in DeformRoIPool(7, 256, modulated=modulated, device="meta").parameters())
        for modulated in (False, True)
    ]
    assert counts == [256 * 49 * 98 + 98, 12544 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 147 + 147]


@pytest.mark.parametrize("branch", ["paper", "mmcv"])
def test_last_layers_start_at_zero_and_the_others_normal(branch: str) -> None:
    layer = DeformRoIPool(7, 16, branch=branch, hidden_channels=200)
    randomised(layer).reset_parameters()
    for branch_of_layers in (layer.offset_fc, layer.mask_fc):
        linears = [m for m in branch_of_layers or () if isinstance(m, nn.Linear)]
        for one in linears[:-1]:
            assert 0.009 < one.weight.std() < 0.011 and one.weight.mean().abs() < 1e-3
        assert not any(p.any() for one in linears for p in [one.bias])
        assert not linears or not linears[-1].weight.any()


@pytest.mark.parametrize(
    "options", [{"modulated": False}, {}, {"branch": "mmcv"}, {"modulated": False, "branch": "mmcv"}]
)
def test_gradients_reach_every_parameter_the_map_and_the_boxes(options: dict[str, Any]) -> None:
    layer = randomised(build(**options))
    maps, boxes = MAPS.clone().requires_grad_(), BOXES.clone().requires_grad_()
    (layer(maps, boxes) * torch.randn(3, CHANNELS, *SIZE)).sum().backward()
    for name, tensor in [*layer.named_parameters(), ("maps", maps), ("boxes", boxes)]:
        assert tensor.grad is not None and bool(tensor.grad.isfinite().all()), name
        assert tensor.grad.abs().max() > 1e-6, name


def test_the_branch_learns_a_shift() -> None:
    """Regions are shown 8 pixels left of where the answer lies; the layer can only find it through its offsets."""
    columns = torch.arange(24.0).sin().cumsum(0)
    ramp = (columns[None, :] + torch.arange(20.0)[:, None] / 3)[None, None]
    boxes = torch.tensor([[0, 24.0, 20.0, 56.0, 52.0]])
    wanted = roi_align(ramp, boxes + torch.tensor([0, 8.0, 0, 8.0, 0]), SIZE, 0.25, 2, aligned=True)
    layer = DeformRoIPool(SIZE, 1, 0.25, 2, modulated=False)
    optimiser = torch.optim.Adam([layer.offset_fc[0].bias], lr=0.1)
    before = (layer(ramp, boxes) - wanted).square().mean().item()
    for _ in range(150):
        loss = (layer(ramp, boxes) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert before > 0.05 and loss.item() < 0.01 * before


def test_boxes_may_be_a_list_and_the_scale_another() -> None:
    layer = randomised(build())
    lists = [BOXES[1:2, 1:], BOXES[[0, 2], 1:]]
    torch.testing.assert_close(layer(MAPS, lists), layer(MAPS, BOXES[[1, 0, 2]]))
    other = copy.deepcopy(layer)
    other.spatial_scale = 0.125
    assert torch.equal(layer(MAPS, BOXES, 0.125), other(MAPS, BOXES))
    assert not torch.equal(layer(MAPS, BOXES, 0.125), layer(MAPS, BOXES))


@pytest.mark.parametrize("branch", ["paper", "mmcv"])
def test_no_boxes_give_no_rows_and_gradients_of_zero(branch: str) -> None:
    layer = build(branch=branch)
    pooled = layer(MAPS, torch.zeros(0, 5))
    assert pooled.shape == (0, CHANNELS, *SIZE)
    pooled.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_branch_in_half_and_the_regions_in_place(dtype: torch.dtype) -> None:
    layer = randomised(build())
    with torch.autocast("cpu", dtype=dtype):
        offset, _ = layer.offset_and_mask(MAPS, BOXES)
        pooled = layer(MAPS, BOXES)
    assert offset.dtype == dtype
    torch.testing.assert_close(pooled.float(), layer(MAPS, BOXES), rtol=0.05, atol=0.05)


def test_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    layer = randomised(build())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(layer(MAPS, BOXES).square().sum(), list(layer.parameters()))
    found = torch.autograd.grad(compiled(MAPS, BOXES).square().sum(), list(layer.parameters()))
    for name, w, f in zip(dict(layer.named_parameters()), wanted, found, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-4, atol=1e-4, msg=name)


def test_repr_says_what_it_is() -> None:
    assert repr(build()).splitlines()[1].strip() == "(3, 2), 5, spatial_scale=0.25, sampling_ratio=2"
    text = repr(build(modulated=False, branch="mmcv", gamma=0.2)).splitlines()[1]
    assert text.strip().endswith("sampling_ratio=2, gamma=0.2, modulated=False, branch='mmcv'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_size": (7, 0)}, "output_size: must be at least 1; got (7, 0); use 1 or more"),
        ({"in_channels": 0}, "in_channels: must be at least 1; got 0; use 1 or more"),
        ({"hidden_channels": -2}, "hidden_channels: must be at least 1; got -2; use 1 or more"),
        (
            {"branch": "mmdet"},
            "branch: must be 'paper' or 'mmcv'; got 'mmdet'; use 'mmcv' for checkpoints of mmcv and mmdet",
        ),
    ],
)
def test_message(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        DeformRoIPool(**{"output_size": 7, "in_channels": 6, **arguments})
    assert str(caught.value) == message


def test_a_map_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        build()(MAPS[:, 1:], BOXES)
    assert (
        str(caught.value)
        == "input: must have the layer's 5 channels; got 4 channels; build the layer with the map's channels"
    )
