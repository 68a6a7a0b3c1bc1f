# SPDX-License-Identifier: Apache-2.0
"""What conversion keeps: outputs, Parameters, hooks, sharing, modes; and that `revert` gives back every bit."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from helpers.networks import CASES, Case, Twins, build, deformable, image
from pliant._check import PliantError
from pliant.nn import DeformConv2d
from pliant.surgery import convert, plan, revert

EXACT = torch.float64


def own(dtype: torch.dtype = EXACT) -> nn.Module:
    return build(Case("own", Twins, ".", 4), dtype)


@torch.no_grad()
def run(model: nn.Module, dtype: torch.dtype = EXACT) -> Tensor:
    return model(image(dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conversion_keeps_the_output_and_revert_every_bit(case: Case) -> None:
    model = build(case, EXACT)
    before, state = run(model), copy.deepcopy(model.state_dict())
    kinds = [(name, type(module)) for name, module in model.named_modules(remove_duplicate=False)]
    text = repr(model)

    assert convert(model, case.where) is model
    layers = deformable(model)
    assert len(layers) == case.count
    torch.testing.assert_close(run(model), before, rtol=1e-10, atol=1e-10 * before.abs().max().item())
    for layer in layers:  # the comparison above would notice one layer that is off: halve them one by one
        layer.mask_scale = 1.0
        assert (run(model) - before).abs().max() > 1e-6 * before.abs().max()
        layer.mask_scale = 2.0
    added = [key for key in model.state_dict() if key not in state]
    assert state.keys() <= model.state_dict().keys()
    assert all(".conv_offset." in key for key in added) and len(added) >= 2 * case.count

    assert revert(model) is model
    assert [(name, type(module)) for name, module in model.named_modules(remove_duplicate=False)] == kinds
    assert repr(model) == text
    assert list(model.state_dict()) == list(state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_small"])
def test_conversion_keeps_the_output_in_float32(name: str) -> None:
    case = next(case for case in CASES if case.name == f"torchvision-{name}")
    model = build(case)
    before = run(model, torch.float32)
    torch.testing.assert_close(
        run(convert(model, case.where), torch.float32), before, rtol=1e-4, atol=1e-5 * before.abs().max().item()
    )


@pytest.mark.parametrize(
    "options", [{"modulated": False}, {"offset_groups": 3}, {"modulated": False, "offset_groups": 2}]
)
def test_every_kind_of_layer_starts_at_the_same_output(options: dict[str, int]) -> None:
    model = own()
    before = run(model)
    convert(model, "left|tied|deep", **options)
    assert len(deformable(model)) == 3
    channels = options.get("offset_groups", 1) * (3 if options.get("modulated", True) else 2)
    assert model.left.conv_offset.out_channels == 3 * channels
    torch.testing.assert_close(run(model), before, rtol=1e-10, atol=1e-10)
    nn.init.constant_(model.left.conv_offset.bias, 0.3)
    assert (run(model) - before).abs().max() > 1e-3  # the offset branch is in use


def test_what_is_shared_stays_shared() -> None:
    model = own()
    convert(model, ".")
    assert isinstance(model.left, DeformConv2d)
    assert model.left is model.right is model.nested["same"]
    assert model.tied is not model.left and model.tied.weight is model.left.weight
    assert model.tied.conv_offset is not model.left.conv_offset
    revert(model)
    assert type(model.left) is nn.Conv2d
    assert model.left is model.right is model.nested["same"]
    assert model.tied is not model.left and model.tied.weight is model.left.weight


def test_a_shared_block_is_converted_in_both_places() -> None:
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(nn.Sequential(block), block)
    convert(model, r"^1\.0$")
    assert model[0][0] is model[1] is block and isinstance(block[0], DeformConv2d)


def test_a_model_that_is_a_convolution_is_returned_anew() -> None:
    conv = nn.Conv2d(3, 4, (3, 5), padding=(1, 2))
    layer = convert(conv, "last1")
    assert isinstance(layer, DeformConv2d) and layer.weight is conv.weight
    assert convert(layer, "last1") is layer
    back = revert(layer)
    assert type(back) is nn.Conv2d and back.weight is conv.weight and repr(back) == repr(conv)


@pytest.mark.parametrize(
    "where", [".", "last2", lambda name, module: isinstance(module, nn.Conv2d)], ids=["root", "last2", "predicate"]
)
def test_converting_twice_changes_nothing(where: object) -> None:
    model = own()
    convert(model, where)
    modules = list(model.modules())
    assert deformable(model)
    assert convert(model, where) is model
    assert list(model.modules()) == modules  # modules compare by identity
    assert len(plan(model, where)) == 0


def test_converting_more_keeps_what_is_converted() -> None:
    model = build(CASES[1])
    convert(model, "c5")
    first = deformable(model)
    convert(model, "c4-c5")
    assert len(deformable(model)) == 8 and deformable(model)[4:] == first


def test_converting_again_with_other_options_is_refused() -> None:
    model = convert(own(), "left")
    with pytest.raises(PliantError) as error:
        convert(model, ".", modulated=False)
    assert str(error.value) == (
        "options: must be those that left was converted with, modulated=True, offset_groups=1, mask_scale=2.0; "
        "got modulated=False, offset_groups=1, mask_scale=2.0; write model = pliant.revert(model) first"
    )
    assert len(deformable(model)) == 1
    v1 = convert(own(), "left", modulated=False)
    assert convert(v1, "left", modulated=False, mask_scale=1.0) is v1  # v1 has no mask that could be scaled


def test_layers_that_convert_did_not_make_are_left_alone() -> None:
    model = nn.Sequential(DeformConv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    hand_made = model[0]
    convert(model, ".")
    assert model[0] is hand_made and isinstance(model[1], DeformConv2d)
    revert(model)
    assert model[0] is hand_made and type(model[1]) is nn.Conv2d
    assert revert(model) is model


def test_a_mask_that_halves_the_layers_warns_once() -> None:
    model = own()
    before = run(model)
    with pytest.warns(UserWarning, match="mask_scale") as record:
        convert(model, "left|tied", mask_scale=1.0)
    assert [(str(warning.message), warning.filename) for warning in record] == [
        (
            "mask_scale=1.0 starts each converted layer at 0.5 times its output; "
            "use mask_scale=2.0 to keep the model's output",
            __file__,
        )
    ]
    assert (run(model) - before).abs().max() > 1e-3


def test_parameters_are_the_same_objects_with_dtype_mode_and_requires_grad() -> None:
    model = own(torch.bfloat16).train()
    model.stem.eval()
    model.left.weight.requires_grad_(False)
    before = dict(model.named_parameters(remove_duplicate=False))
    convert(model, ".")
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())
    assert not after["left.weight"].requires_grad and after["stem.weight"].requires_grad
    assert {parameter.dtype for parameter in after.values()} == {torch.bfloat16}
    assert after["left.conv_offset.weight"].requires_grad
    assert model.training and model.left.training and model.left.conv_offset.training
    assert not model.stem.training and not model.stem.conv_offset.training
    revert(model)
    assert all(dict(model.named_parameters(remove_duplicate=False))[n] is p for n, p in before.items())
    assert model.left.training and not model.stem.training


def test_the_offset_branch_goes_to_the_device_of_the_weight() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, device="meta"), nn.Conv2d(4, 4, 3))
    state = torch.get_rng_state()
    convert(model, ".")
    assert model[0].conv_offset.weight.device.type == "meta"
    assert model[1].conv_offset.weight.device.type == "cpu"
    assert not model[1].conv_offset.weight.any() and not model[1].conv_offset.bias.any()
    assert torch.equal(torch.get_rng_state(), state)  # conversion draws no random numbers


def test_an_optimizer_built_before_still_trains_the_weights() -> None:
    model = own().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert(model, "left")
    before = model.left.weight.clone()
    model(image(EXACT)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.left.weight, before)
    trained = model.left.weight.clone()
    assert torch.equal(revert(model).left.weight, trained)


def test_hooks_move_with_their_flags_and_handles() -> None:
    model = own()
    calls: list[str] = []
    modules: list[nn.Module] = []

    def hook(name: str) -> Callable[..., None]:
        def call(module: nn.Module, *args: object, **kwargs: object) -> None:
            calls.append(f"{name}{len(args)}")
            modules.append(module)

        return call

    left = model.left
    handles = [
        left.register_forward_pre_hook(hook("pre")),
        left.register_forward_pre_hook(hook("pre_kwargs"), with_kwargs=True),
        left.register_forward_hook(hook("forward")),
        left.register_forward_hook(hook("forward_kwargs"), with_kwargs=True, always_call=True),
        left.register_full_backward_pre_hook(hook("backward_pre")),
        left.register_full_backward_hook(hook("backward")),
        left.register_state_dict_pre_hook(hook("state")),
        left.register_state_dict_post_hook(hook("state_post")),
        left.register_load_state_dict_pre_hook(hook("load")),
        left.register_load_state_dict_post_hook(hook("load_post")),
    ]
    model.nested["same"] = nn.Identity()  # so that it runs twice a pass, as `left` and as `right`

    def calls_of_a_pass() -> list[str]:
        calls.clear()
        modules.clear()
        model(image(EXACT)).sum().backward()
        model.left.load_state_dict(model.left.state_dict())
        assert all(module is model.left for module in modules)
        return list(calls)

    expected = calls_of_a_pass()
    assert {name.rstrip("0123456789") for name in expected} == {
        *("pre", "pre_kwargs", "forward", "forward_kwargs", "backward_pre", "backward"),
        *("state", "state_post", "load", "load_post"),
    }
    convert(model, "left")
    del left  # hooks that remember their module must not depend on the old one
    assert calls_of_a_pass() == expected
    revert(model)
    assert calls_of_a_pass() == expected
    convert(model, "left")
    for handle in handles:
        handle.remove()
    assert calls_of_a_pass() == []


def test_attributes_set_on_a_convolution_stay_readable_and_come_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", padding_mode="zeros"))
    model[0].role = ["lateral"]
    convert(model, ".")
    assert model[0].role == ["lateral"] and model[0].padding == (1, 1) and model[0].padding_mode == "zeros"
    revert(model)
    assert model[0].role == ["lateral"] and model[0].padding == "same"
    assert vars(model[0]).keys() == vars(nn.Conv2d(3, 4, 3)).keys() | {"role"}


class TaggedConv(nn.Conv2d):
    """A subclass which computes as nn.Conv2d does, and cannot be built without its own argument."""

    def __init__(self, tag: str) -> None:
        super().__init__(3, 4, 3, padding="valid", padding_mode="reflect")
        self.tag = tag


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def through_file(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def through_state_dict(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    other = convert(nn.Sequential(TaggedConv("a"), nn.Conv2d(4, 5, (3, 1), padding="same")).double(), ".")
    other.load_state_dict(model.state_dict(), assign=True)
    return other


@pytest.mark.parametrize("through", [copy.deepcopy, through_pickle, through_file, through_state_dict])
def test_copies_can_be_reverted(through: object) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(TaggedConv("a"), nn.Conv2d(4, 5, (3, 1), padding="same")).double()
    before = run(model)
    other = through(convert(model, "."))
    assert len(deformable(other)) == 2 and other[0].weight is not model[0].weight
    revert(other)
    assert type(other[0]) is TaggedConv and other[0].tag == "a" and other[0].padding == "valid"
    assert other[0].padding_mode == "reflect" and other[1].padding == "same"
    assert torch.equal(run(other), before)
    assert len(deformable(model)) == 2


def test_channels_follow_the_weight_where_the_attributes_are_stale() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    model[0].weight = nn.Parameter(model[0].weight[:, :3].clone())  # how stems are adapted, in_channels stays 4
    image_of_three = torch.rand(1, 3, 6, 7)
    before = model(image_of_three)
    convert(model, ".")
    torch.testing.assert_close(model(image_of_three), before)
    assert revert(model)[0].in_channels == 4


def test_a_failed_conversion_leaves_the_model_as_it_was() -> None:
    model = own()
    modules = list(model.modules())
    with pytest.raises(ValueError, match=r"offset_groups: must divide in_channels=3; got 2; "):
        convert(model, ".", offset_groups=2)  # 6 channels can be halved, the image's 3 cannot
    with pytest.raises(ValueError, match=r"mask_scale: must be positive; got -1; "):
        convert(model, ".", mask_scale=-1)
    assert list(model.modules()) == modules


def test_a_detector_is_converted_in_its_backbone() -> None:
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None}
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(**options).double().eval()
    before = model.backbone(image(EXACT))
    convert(model, "c4-c5")
    names = [name for name, module in model.named_modules() if isinstance(module, DeformConv2d)]
    # MobileNetV3-Large: blocks 7 to 12 have stride 16, of which 7 steps down; 13 to 15 have stride 32
    assert names == [f"backbone.body.{k}.block.1.0" for k in range(7, 16)]
    after = model.backbone(image(EXACT))
    assert isinstance(after, OrderedDict) and list(after) == list(before)
    for key, feature in after.items():
        torch.testing.assert_close(feature, before[key], rtol=1e-10, atol=1e-10 * before[key].abs().max().item())


def test_a_traced_graph_calls_the_new_layers() -> None:
    model = torch.fx.symbolic_trace(own())
    before = run(model)
    convert(model, ".")
    assert len(deformable(model)) == 4
    torch.testing.assert_close(run(model), before, rtol=1e-10, atol=1e-10)
    nn.init.constant_(model.left.conv_offset.bias, 0.3)
    assert (run(model) - before).abs().max() > 1e-3
    assert torch.equal(run(revert(model)), before)


def test_what_holds_on_to_its_modules_is_refused() -> None:
    compiled = nn.Sequential(nn.Conv2d(3, 4, 3))
    compiled.compile()
    wrapped = nn.Sequential(nn.Conv2d(3, 4, 3))
    wrapped.__class__ = nn.parallel.DistributedDataParallel
    refused = {
        "compiled (the model itself); convert first, then torch.compile": torch.compile(nn.Conv2d(3, 4, 3)),
        "compiled 1; convert first": nn.Sequential(nn.ReLU(), torch.compile(nn.Conv2d(3, 4, 3))),
        "got a compiled (the model itself); ": compiled,
        "got DistributedDataParallel; convert first, then wrap": wrapped,
        "must be a torch.nn.Module; got int; ": 3,
    }
    for message, model in refused.items():
        for operation in (lambda m: convert(m, "."), lambda m: plan(m, "."), revert):
            with pytest.raises(TypeError) as error:
                operation(model)
            assert message in str(error.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripts_are_refused_and_scripted_parts_left_alone() -> None:
    part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(
        TypeError, match="must not be a TorchScript module; got RecursiveScriptModule; convert the Pyth"
    ):
        convert(part, ".")
    model = nn.Sequential(part, nn.Conv2d(4, 5, 3)).eval()
    image_of_three = torch.rand(1, 3, 9, 8)
    before = model(image_of_three)
    convert(model, ".")
    assert len(deformable(model)) == 1
    torch.testing.assert_close(model(image_of_three), before)
