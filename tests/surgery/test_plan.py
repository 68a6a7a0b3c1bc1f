# SPDX-License-Identifier: Apache-2.0
"""What `where` selects, what is skipped and why, how a plan prints, and the errors that name near misses."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune

from helpers.networks import CASES, Case, Twins, build
from pliant._check import PliantError
from pliant.surgery import convert, plan

MODELS = torchvision.models


def names(model: nn.Module, where: object) -> list[str]:
    return [row.name for row in plan(model, where)]


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    with torch.device("meta"):
        return MODELS.resnet50(weights=None)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plan_tells_what_conversion_adds(case: Case) -> None:
    model = build(case)
    parameters = sum(p.numel() for p in model.parameters())
    planned = plan(model, case.where)
    assert len(planned) == len(list(planned)) == case.count
    convert(model, case.where)
    assert sum(p.numel() for p in model.parameters()) - parameters == planned.added_parameters > 0


def test_stages_of_resnets(resnet50: nn.Module) -> None:
    blocks = {2: 3, 3: 4, 4: 6, 5: 3}
    for stage, count in blocks.items():
        assert names(resnet50, f"c{stage}") == [f"layer{stage - 1}.{k}.conv2" for k in range(count)]
    assert names(resnet50, "C3-C5") == names(resnet50, "c3") + names(resnet50, "c4") + names(resnet50, "c5")
    with torch.device("meta"):
        assert len(plan(MODELS.resnet101(weights=None), "c3-c5")) == 30
        assert len(plan(timm.create_model("resnet101"), "c3-c5")) == 30
    assert names(resnet50, "last3") == names(resnet50, "c5")
    # 27 channels for 9 taps of offset and mask, a bias each: four layers of 128, six of 256, three of 512 channels
    assert plan(resnet50, "c3-c5").added_parameters == 27 * 9 * (4 * 128 + 6 * 256 + 3 * 512) + 27 * 13
    assert plan(resnet50, "c5", modulated=False, offset_groups=4).added_parameters == 3 * 72 * (9 * 512 + 1)


def test_stages_of_dilated_and_wrapped_resnets_go_by_name() -> None:
    segmentation = MODELS.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
    rows = list(plan(segmentation, "c5"))
    assert [row.name for row in rows] == [f"backbone.layer4.{k}.conv2" for k in range(3)]
    assert [row.dilation for row in rows] == [(2, 2), (4, 4), (4, 4)] and {row.stride for row in rows} == {(1, 1)}
    features = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3))
    assert names(features, "c3-c4") == [f"layer2.{k}.conv2" for k in range(4)] + [f"layer3.{k}.conv2" for k in range(6)]
    with pytest.raises(PliantError, match="larger than 1x1, which are c2, c3, c4; got 'c3-c5'; c5 not found; "):
        plan(features, "c3-c5")


@pytest.mark.parametrize(
    ("model", "where", "expected"),
    [
        (lambda: MODELS.vgg11(weights=None, init_weights=False), "c3", ["features.11", "features.13"]),
        (lambda: MODELS.mobilenet_v3_large(weights=None), "c3", [f"features.{k}.block.1.0" for k in (4, 5, 6)]),
        (lambda: MODELS.regnet_y_400mf(weights=None), "c2", ["trunk_output.block1.block1-0.f.b.0"]),
        (
            lambda: timm.create_model("regnety_004", features_only=True),
            "c3",
            [f"s2.b{k}.conv2.conv" for k in (1, 2, 3)],
        ),
        (
            lambda: MODELS.convnext_tiny(weights=None),
            "c3",
            ["features.2.1", *(f"features.3.{k}.block.0" for k in range(3))],
        ),
        (
            lambda: timm.create_model("convnext_atto", features_only=True),
            "c3",
            ["stages_1.downsample.1", "stages_1.blocks.0.conv_dw", "stages_1.blocks.1.conv_dw"],
        ),
    ],
)
def test_stages_of_other_networks_go_by_stride(model: object, where: str, expected: list[str]) -> None:
    assert names(model(), where) == expected


def test_stages_are_where_the_stride_says() -> None:
    """The stride of each planned convolution's output, measured, is the one that its stage's number promises."""
    model = build(CASES[4])
    assert CASES[4].name == "torchvision-mobilenet_v3_small"
    strides: dict[str, int] = {}

    def measure(name: str) -> object:
        return lambda module, args, output: strides.update({name: 128 // output.shape[-1]})

    for name, module in model.named_modules():
        module.register_forward_hook(measure(name))
    model(torch.zeros(1, 3, 128, 128))
    planned = {stage: names(model, f"c{stage}") for stage in (1, 2, 3, 4, 5)}
    assert {stage: {strides[name] for name in own} for stage, own in planned.items()} == {
        stage: {2**stage} for stage in planned
    }
    assert sum(map(len, planned.values())) == sum(
        module.kernel_size > (1, 1) for module in model.modules() if isinstance(module, nn.Conv2d)
    )


def test_a_block_has_the_stride_of_one_branch() -> None:
    class Reduction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stride = 8  # kept for the record, and wrong
            self.body = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), nn.ConvTranspose2d(4, 4, 2, stride=2))
            self.shortcut = nn.AvgPool2d(2)

    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), Reduction(), nn.MaxPool2d(2), nn.Sequential(Reduction()))
    assert names(model, "c1") == ["0"]
    assert names(model, "c2") == ["1.body.0"]
    assert names(model, "c4") == ["3.0.body.0"]


def test_detectors_are_selected_in_their_backbone() -> None:
    model = MODELS.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    assert names(model, "last1") == ["backbone.body.layer4.2.conv2"]
    assert len(plan(model, "c3-c5")) == 13
    assert names(model, r"^rpn") == ["rpn.head.conv.0.0"]  # regular expressions reach everything


def test_regular_expressions_and_predicates(resnet50: nn.Module) -> None:
    assert names(resnet50, r"layer4\.\d\.conv2$") == names(resnet50, "c5")
    assert names(resnet50, "layer4") == names(resnet50, "c5")
    skipped = {s.name: s.reason for s in plan(resnet50, "layer4").skipped}
    assert skipped["layer4.0.downsample.0"] == "1x1: a single tap; a predicate can choose it"
    asked: list[str] = []

    def strided(name: str, module: nn.Module) -> bool:
        asked.append(name)
        return module.stride == (2, 2)

    # the downsampling 1x1 ones too: a predicate is taken at its word
    expected = ["conv1"] + [f"layer{k}.0.{part}" for k in (2, 3, 4) for part in ("conv2", "downsample.0")]
    assert names(resnet50, strided) == expected
    assert asked == [name for name, module in resnet50.named_modules() if isinstance(module, nn.Conv2d)]


def test_blocks_that_record_a_kernel_size_are_looked_into() -> None:
    class ConvModule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_channels, self.kernel_size = 3, (3, 3)
            self.conv = nn.Conv2d(3, 4, 3)

    assert names(nn.Sequential(ConvModule()), ".") == ["0.conv"]


def test_a_plan_prints_a_table() -> None:
    planned = plan(Twins(), "left|same|deep|stem")
    assert str(planned) == "\n".join(
        [
            "to convert: 3, with 3,726 added parameters",
            "  name                        from    to            kernel  stride  dilation  groups  parameters",
            "  stem                        Conv2d  DeformConv2d  5x3     1x2     1x1       1       +2,070",
            "  left = right = nested.same  Conv2d  DeformConv2d  3x1     1x1     1x1       2       +171",
            "  nested.deep.1               Conv2d  DeformConv2d  3x3     1x1     1x1       1       +1,485",
        ]
    )


class Scaled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Adapted(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(4, 4, 3)
        self.register_buffer("shift", torch.zeros(4))


def lazy() -> nn.Module:
    return nn.LazyConv2d(4, 3)


def patched() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3)
    conv.forward = conv.forward
    return conv


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Conv2d(4, 4, 3), "weight", 0.5)


def parametrized() -> nn.Module:
    return torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("build_conv", "reason"),
    [
        (lambda: nn.ConvTranspose2d(4, 4, 3), "torch.nn.modules.conv.ConvTranspose2d is not a torch.nn.Conv2d"),
        (lambda: nn.Conv1d(4, 4, 3), "torch.nn.modules.conv.Conv1d is not a torch.nn.Conv2d"),
        (
            lambda: torch.ao.nn.quantized.Conv2d(4, 4, 3),
            "torch.ao.nn.quantized.modules.conv.Conv2d is not a torch.nn.C",
        ),
        (lambda: timm.layers.Conv2dSame(4, 4, 3), "this Conv2dSame has a forward of its own (padding or weights made"),
        (lambda: timm.layers.StdConv2d(4, 4, 3), "this StdConv2d has a forward of its own (padding or weights made"),
        (lambda: Scaled(4, 4, 3), "this Scaled has a forward of its own"),
        (patched, "this Conv2d has a forward of its own"),
        (parametrized, "parametrized; torch.nn.utils.parametrize.remove_parametrizations makes it convertible"),
        (pruned, "it holds bias, weight_mask, weight_orig where weight and bias are expected"),
        (Adapted, "it holds bias, shift, weight where weight and bias are expected"),
        (lazy, "lazy: its channels are unknown before a first forward pass"),
        (
            lambda: nn.Conv2d(4, 4, 3, dtype=torch.complex64),
            "its weight is a Parameter of torch.complex64, not a float",
        ),
        (
            lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            "padding_mode='reflect': a deformable layer read",
        ),
        (
            lambda: nn.Conv2d(4, 4, (3, 2), padding="same"),
            "padding='same' with an even extent pads one side more than t",
        ),
    ],
)
def test_what_cannot_be_converted_is_skipped_with_the_reason(build_conv: object, reason: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), build_conv())
    old = model[1]
    planned = plan(model, ".")
    assert [row.name for row in planned] == ["0"] and [skipped.name for skipped in planned.skipped] == ["1"]
    assert planned.skipped[0].reason.startswith(reason)
    assert reason in str(planned)
    assert convert(model, ".")[1] is old
    with pytest.raises(PliantError) as error:
        convert(model, "1")
    assert str(error.value).startswith(
        f"where: must mean a convolution that can be converted; none of 1 can (1: {reason}"
    )


@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "expected"),
    [("same", (3, 5), (1, 2), (1, 4)), ("same", (2, 3), (2, 1), (1, 1)), ("valid", (3, 5), (1, 2), (0, 0))],
)
def test_padding_as_text_becomes_the_same_padding(
    padding: str, kernel: tuple[int, int], dilation: tuple[int, int], expected: tuple[int, int]
) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, kernel, dilation=dilation, padding=padding).double())
    image = torch.rand(1, 2, 12, 15, dtype=torch.float64)
    before = model(image)
    convert(model, ".", modulated=False)
    assert model[0].padding == expected
    torch.testing.assert_close(model(image), before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "layer4.*conv9",
            "where: must match the name of a convolution; got 'layer4.*conv9'; the convolutions are called conv1, "
            "layer1.0.conv1, layer1.0.conv2, layer1.0.conv3 and 49 more. "
            "Did you mean 'layer4.2.conv3' or 'layer4.2.conv2' or 'layer4.2.conv1'?",
        ),
        (
            "^layer4$",
            "where: must match the name of a convolution; got '^layer4$'; the convolutions are called conv1, "
            "layer1.0.conv1, layer1.0.conv2, layer1.0.conv3 and 49 more. It matches layer4 (Sequential), which is no "
            "convolution. Did you mean 'layer4.2.conv3' or 'layer4.2.conv2' or 'layer4.2.conv1'?",
        ),
        (
            "c5-c3",
            "where: must name the finer stage first; got 'c5-c3'; use 'c3-c5'",
        ),
        (
            "last54",
            "where: must ask for no more convolutions larger than 1x1 than the model has, which is 17; got 'last54'; "
            "use 'last17' or fewer",
        ),
        (
            "layer4(",
            "where: must be a regular expression (missing ), unterminated subpattern at position 6); got 'layer4('; "
            "name stages ('c3-c5') or a count ('last3'), or give a regular expression or a predicate",
        ),
        (
            lambda name, module: False,
            "where: must be true for a convolution; got a predicate that is false for all 53; the convolutions are "
            "called conv1, layer1.0.conv1, layer1.0.conv2, layer1.0.conv3 and 49 more",
        ),
        ("", "where: must match the name of a convolution; got ''; the convolutions are called conv1, "),
    ],
)
def test_nothing_matched_is_an_error_that_helps(resnet50: nn.Module, where: object, message: str) -> None:
    for operation in (plan, convert):
        with pytest.raises(PliantError) as error:
            operation(resnet50, where)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)


def test_other_errors_of_where() -> None:
    with pytest.raises(
        TypeError, match=r"where: must be text or a predicate \(name, module\) -> bool; got 3; name stages"
    ):
        plan(nn.Conv2d(3, 4, 3), 3)
    with pytest.raises(PliantError, match="model: must hold a convolution; got Linear; give a convolutional model"):
        plan(nn.Linear(3, 4), "c5")
    with pytest.raises(
        PliantError, match="stages with convolutions larger than 1x1, which are none; got 'c5'; c5 not fo"
    ):
        plan(nn.Conv2d(3, 4, 3), "c5")


def test_a_notebook_shows_a_table() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3))
    shown = plan(model, lambda name, module: True)._repr_html_()
    assert "<td>Conv2d</td><td>DeformConv2d</td><td>3x3</td>" in shown
    assert shown.count("<tr>") == 4
    assert "skipped: 1" in shown
