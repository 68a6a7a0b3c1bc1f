# SPDX-License-Identifier: Apache-2.0
"""What follows a converted model, from torch.fx to OpenVINO, follows it as it follows the plain one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from helpers.exported import largest
from helpers.fresh import output_of
from pliant import convert
from pliant._check import PliantError
from pliant.export import lower_program, plain_operators
from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool
from pliant.ops import deform_conv2d, deform_roi_pool

pytestmark = [
    # PyTorch 2.15 says so of each; other programs go on calling them.
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
IMAGE = torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(5))


def wild(model: nn.Module) -> nn.Module:
    """Give offset branches random weights; the images of the batch then have different offsets at every place."""
    random = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            for parameter in module.conv_offset.parameters():
                parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
    return model.eval()


def small() -> nn.Module:
    """A converted network with a rectangular kernel, a stride, weight groups and offset groups."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 6, (3, 5), (2, 1), (1, 2), groups=2), nn.BatchNorm2d(6)]
    return wild(convert(nn.Sequential(*layers), "last1", offset_groups=2))


def resnet(where: str = "c4-c5") -> nn.Module:
    """A converted ResNet-18 of torchvision."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return wild(convert(torchvision.models.resnet18(weights=None).eval(), where))


def test_fx_traces_the_same_function() -> None:
    model = small()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(IMAGE), model(IMAGE))
    assert "deform_conv2d" in traced.code
    alone = torch.fx.symbolic_trace(model[3])
    other = torch.rand(2, 8, 9, 10)
    assert torch.equal(alone(other), model[3](other))
    assert torch.equal(alone(other, other * 2), model[3](other, other * 2))


def test_fx_fuses_the_normalization_of_plain_convolutions() -> None:
    model = resnet()
    fused = fuse(model)
    torch.testing.assert_close(fused(IMAGE), model(IMAGE), rtol=1e-4, atol=1e-4)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert left == sum(isinstance(module, DeformConv2d) for module in model.modules())


def test_feature_extractors_find_the_layers_by_their_names() -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = resnet()
    seen: dict[str, Tensor] = {}
    for name in ("layer3", "layer4.0.conv2", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: seen.__setitem__(name, y.clone()))
    found = extraction.create_feature_extractor(model, return_nodes=["layer3", "layer4.0.conv2", "layer4"])(IMAGE)
    model(IMAGE)
    assert seen.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in seen.items())


def test_timms_feature_extractor() -> None:
    features = pytest.importorskip("timm.models._features_fx")
    timm = pytest.importorskip("timm")
    model = wild(convert(timm.create_model("resnet18").eval(), "c5"))
    found = features.create_feature_extractor(model, ["layer4.1.conv2", "layer4"])(IMAGE)
    values = list(found.values()) if isinstance(found, dict) else list(found)
    torch.testing.assert_close(values[-1], model.forward_features(IMAGE))


def test_a_script_is_the_same_function_and_can_be_stored(tmp_path: Path) -> None:
    model = resnet()
    scripted = torch.jit.script(model)
    scripted.save(tmp_path / "model.pt")
    assert torch.equal(scripted(IMAGE), model(IMAGE))
    assert torch.equal(torch.jit.load(tmp_path / "model.pt")(IMAGE), model(IMAGE))
    layer = small()[3]
    x, other = torch.rand(2, 8, 9, 10), torch.rand(2, 8, 9, 10)
    assert torch.equal(torch.jit.script(layer)(x, other), layer(x, other))


@pytest.mark.parametrize("pool", [DeformRoIPool(2, 3), DeformPSRoIPool(2, 4, 1, group_size=2)], ids=["plain", "ps"])
def test_scripts_of_region_pooling_are_refused(pool: nn.Module) -> None:
    message = "must be traced, not scripted; TorchScript cannot .*; use torch.jit.trace or torch.export"
    with pytest.raises(PliantError, match=message):
        torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), pool))


def test_a_trace_holds_torchvisions_operator_and_warns_of_nothing() -> None:
    model = small()
    traced = torch.jit.trace(model, IMAGE)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "torchvision::deform_conv2d" in kinds
    other = torch.rand(1, 3, 60, 21)
    torch.testing.assert_close(traced(other), model(other))
    wide = torch.jit.trace(model.to(torch.bfloat16), IMAGE.bfloat16())  # a type that torchvision lacks
    assert "pliant::deform_conv2d" in {node.kind() for node in wide.inlined_graph.nodes()}


def test_operations_are_counted_once_pliant_is_imported() -> None:
    code = "import sys, torch, pliant; assert 'torch.utils.flop_counter' not in sys.modules\n"
    code += "from torch.utils.flop_counter import FlopCounterMode\nlayer = pliant.nn.DeformConv2d(4, 6, 3)\n"
    code += "with FlopCounterMode(display=False) as c:\n    layer(torch.rand(1, 4, 5, 7))\nprint(c.get_total_flops())"
    code = "import warnings; warnings.simplefilter('ignore')\n" + code
    positions = 3 * 5
    assert int(output_of(code)) == positions * (2 * 27 * 36 + 2 * 6 * 36 + 9 * 36)


@pytest.mark.parametrize("opset", [19, 20, 23])
def test_pytorchs_own_exporter_writes_deform_conv(tmp_path: Path, opset: int) -> None:
    onnx = pytest.importorskip("onnx")
    model, path = small(), tmp_path / "model.onnx"
    axes = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    options = {"dynamic_shapes": axes, "opset_version": opset, "verbose": False}
    program = torch.onnx.export(model, (IMAGE,), dynamo=True, output_names=["y"], **options)
    program.save(path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("DeformConv") == 1
    other = torch.rand(3, 3, 20, 29)
    name = program.model.graph.inputs[0].name
    assert largest(path, {name: other}, {"y": model(other).detach()}) < 1e-5


@pytest.mark.filterwarnings("ignore:.*opset")
@pytest.mark.parametrize(("opset", "within"), [(16, False), (18, False), (18, True), (20, True)])
def test_versions_without_deform_conv_are_written_in_plain_operators(tmp_path: Path, opset: int, within: bool) -> None:
    onnx = pytest.importorskip("onnx")
    model, path = small(), tmp_path / "model.onnx"
    with plain_operators() if within else nullcontext():
        program = torch.onnx.export(
            model, (IMAGE,), dynamo=True, output_names=["y"], opset_version=opset, verbose=False
        )
    program.save(path)
    written = onnx.load(path)
    assert written.opset_import[0].version in (opset, 18)  # PyTorch converts 18 to what was asked for, if it can
    nodes = {node.op_type for node in written.graph.node}
    assert "GridSample" in nodes
    assert "DeformConv" not in nodes
    assert largest(path, {program.model.graph.inputs[0].name: IMAGE}, {"y": model(IMAGE).detach()}) < 1e-5


class Pool(nn.Module):
    """Deformable RoI pooling of quarter-size maps into bins of 3 x 4."""

    def __init__(self, sampling_ratio: int) -> None:
        super().__init__()
        self.sampling_ratio = sampling_ratio

    def forward(self, x: Tensor, rois: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return deform_roi_pool(x, rois, (3, 4), offset, mask, 0.25, self.sampling_ratio, 0.2)


# The bins of the first box are 2 x 1 pixels, those of the last 0.01 x 0.04 of a pixel less: rounding decides there.
BOXES = torch.tensor([[1, 4.0, 8, 36, 20], [0, -6, 3, 20.5, 31], [1, 30.3, 10.7, 46.3 - 0.16, 34.7 - 0.12]])


def pool_arguments() -> tuple[Tensor, ...]:
    """Maps, boxes, offsets and masks."""
    random = torch.Generator().manual_seed(3)
    shapes = ((2, 5, 13, 12), (3, 2, 3, 4), (3, 1, 3, 4))
    x, offset, mask = (torch.randn(shape, generator=random) for shape in shapes)
    return x, BOXES, offset, mask


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pytorchs_own_exporter_writes_roi_align(tmp_path: Path, sampling_ratio: int) -> None:
    pytest.importorskip("onnxscript")
    model, arguments, path = Pool(sampling_ratio).eval(), pool_arguments(), tmp_path / "model.onnx"
    program = torch.onnx.export(model, arguments, dynamo=True, output_names=["y"], verbose=False)
    program.save(path)
    inputs = dict(zip((value.name for value in program.model.graph.inputs), arguments, strict=True))
    assert largest(path, inputs, {"y": model(*arguments)}) < 1e-5


@pytest.mark.parametrize("target", ["onnx", "plain"])
def test_a_program_made_before_is_lowered_for_onnx(tmp_path: Path, target: str) -> None:
    pytest.importorskip("onnxscript")
    model, path = small(), tmp_path / "model.onnx"
    program = lower_program(torch.export.export(model, (IMAGE,)), target)
    assert not any("pliant" in str(node.target) for node in program.graph.nodes)
    written = torch.onnx.export(program, dynamo=True, output_names=["y"], verbose=False)
    written.save(path)
    name = written.model.graph.inputs[0].name
    assert largest(path, {name: IMAGE}, {"y": model(IMAGE).detach()}) < 1e-5


def run_openvino(converted: object, *inputs: Tensor) -> Tensor:
    """Return what OpenVINO computes on the CPU, in float32, which is not its default on every processor."""
    openvino = pytest.importorskip("openvino")
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled([x.numpy() for x in inputs])[0])


def test_openvino_converts_the_model(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = small()
    other = torch.rand(3, 3, 20, 29)
    converted = openvino.convert_model(model, example_input=IMAGE)
    torch.testing.assert_close(run_openvino(converted, other), model(other), rtol=1e-4, atol=1e-5)
    program = lower_program(torch.export.export(model, (IMAGE,)), "torchvision")
    torch.testing.assert_close(run_openvino(openvino.convert_model(program), IMAGE), model(IMAGE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_openvino_converts_region_pooling(sampling_ratio: int) -> None:
    openvino = pytest.importorskip("openvino")
    model, arguments = Pool(sampling_ratio).eval(), pool_arguments()
    converted = openvino.convert_model(model, example_input=arguments)
    torch.testing.assert_close(run_openvino(converted, *arguments), model(*arguments), rtol=1e-4, atol=1e-5)


def test_plain_operators_take_padding_by_its_name() -> None:
    random = torch.Generator().manual_seed(9)
    x, weight = torch.rand(1, 4, 8, 11, generator=random), torch.rand(2, 4, 3, 5, generator=random)
    offset = torch.rand(1, 30, 8, 11, generator=random)
    with plain_operators():
        found = deform_conv2d(x, offset, weight, padding="same")
    torch.testing.assert_close(found, deform_conv2d(x, offset, weight, padding=(1, 2)), rtol=1e-4, atol=1e-5)


def test_plain_operators_compute_the_same() -> None:
    model, wide = small().double(), IMAGE.double()
    with plain_operators():
        plain = torch.export.export(model, (wide,)).module()
        got = model(wide)
        single = model[3](torch.ones(8, 9, 10, dtype=torch.float64))
    torch.testing.assert_close(got, model(wide), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(plain(wide), model(wide), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        single, model[3](torch.ones(1, 8, 9, 10, dtype=torch.float64))[0], rtol=1e-10, atol=1e-10
    )
    assert not torch.equal(got, model(wide))  # it was something else that computed it


def test_an_unknown_target_is_refused() -> None:
    program = torch.export.export(nn.Identity(), (IMAGE,))
    with pytest.raises(
        PliantError, match="target: must be one of onnx, torchvision, plain; got 'tensorrt'; use 'onnx'"
    ):
        lower_program(program, "tensorrt")
