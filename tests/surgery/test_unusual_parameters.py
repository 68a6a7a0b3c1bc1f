# SPDX-License-Identifier: Apache-2.0
"""Layers whose parameters something has replaced: pruning, normalization of weights, tensors without data, shards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

from pliant.nn import DeformConv2d
from pliant.surgery import convert, plan, revert


def converted() -> tuple[nn.Sequential, DeformConv2d]:
    model = nn.Sequential(nn.Conv2d(3, 5, (3, 2), padding=(1, 0)), nn.ReLU(), nn.Conv2d(5, 4, 3, bias=False)).eval()
    model = convert(model, "last1")
    layer = model[2]
    assert isinstance(layer, DeformConv2d)
    return model, layer


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.4)


def normed(layer: nn.Module) -> None:
    hooked_weight_norm(layer)
    with torch.no_grad():
        layer.weight_g.mul_(1.5)  # type: ignore[union-attr, operator]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("change", [pruned, normed, hooked_spectral_norm])
def test_what_hooks_have_put_in_the_place_of_a_weight_comes_back_with_it(change: Callable[[nn.Module], object]) -> None:
    model, layer = converted()
    change(layer)
    x = torch.randn(2, 3, 7, 9)
    expected, before = model(x), {n: p for n, p in model.named_parameters() if "conv_offset" not in n}
    state = {n: t.clone() for n, t in model.state_dict().items() if "conv_offset" not in n}
    plain = revert(model)
    assert type(plain[2]) is nn.Conv2d
    assert {n: id(p) for n, p in plain.named_parameters()} == {n: id(p) for n, p in before.items()}
    assert {n: t.tolist() for n, t in plain.state_dict().items()} == {n: t.tolist() for n, t in state.items()}
    torch.testing.assert_close(plain(x), expected)
    before_change = plain(x)
    with torch.no_grad():
        weight = next(p for n, p in plain[2].named_parameters() if n in ("weight_orig", "weight_v"))
        weight.copy_(weight.flip(0))
    assert not torch.allclose(plain(x), before_change, rtol=0.01)  # the hook works on the new module


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_layer_is_refused_and_nothing_changes(norm: Callable[[nn.Module], nn.Module]) -> None:
    model, layer = converted()
    norm(layer)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="parametrized") as caught:
        revert(model)
    assert str(caught.value) == (
        "model: must have no parametrized deformable layer; '2' has 'weight'; "
        "call torch.nn.utils.parametrize.remove_parametrizations(layer, name) for each first"
    )
    assert {n: t.tolist() for n, t in model.state_dict().items()} == {n: t.tolist() for n, t in before.items()}
    parametrize.remove_parametrizations(layer, "weight")
    assert type(revert(model)[2]) is nn.Conv2d


def test_a_model_without_data_is_converted() -> None:
    """Under `FakeTensorMode` a Parameter's type is that of its tensor."""
    with FakeTensorMode():
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3, padding=1))
        assert len(plan(model, "last1")) == 1
        model = convert(model, "last1")
        assert isinstance(model[1], DeformConv2d)
        assert model(torch.empty(2, 3, 9, 8)).shape == (2, 4, 7, 6)
        assert isinstance(revert(model)[1], nn.Conv2d)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:DTensor random operators may not have complete support on cpu")  # PyTorch 2.6
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
def test_a_sharded_model_is_refused_by_its_shards(one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3))
    distribute_module(model[1], init_device_mesh("cpu", (1,)))
    with pytest.raises(TypeError, match="sharded") as caught:
        convert(model, "last1")
    assert str(caught.value) == (
        "model: must not be sharded yet; got '1.weight', a DTensor; "
        "convert first, then shard (fully_shard, parallelize_module), so that the offset branches are too"
    )
    assert type(model[1]) is nn.Conv2d


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="fully_shard runs on no CPU in PyTorch 2.6")
def test_a_converted_model_is_sharded_and_computes_the_same(one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model, layer = converted()
    layer.conv_offset.bias.data.normal_()
    x = torch.randn(2, 3, 7, 9)
    expected = model(x)
    expected.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    sharded = copy.deepcopy(model)
    sharded.zero_grad()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    got = sharded(x)
    torch.testing.assert_close(got, expected)
    got.square().sum().backward()
    found = dict(sharded.named_parameters())
    assert isinstance(found["2.conv_offset.weight"], DTensor)
    for name, gradient in gradients.items():
        assert gradient is not None and gradient.any()
        torch.testing.assert_close(found[name].grad.full_tensor(), gradient)


def test_names_of_other_libraries() -> None:
    for function in (plan, convert):
        with pytest.raises(TypeError) as caught:
            function(nn.Conv2d(3, 4, 3), ".", deform_groups=2)  # type: ignore[arg-type]
        assert str(caught.value) == (
            f"deform_groups: {function.__name__} has no argument of this name; got deform_groups=2; "
            "write offset_groups= in its place"
        )
