# SPDX-License-Identifier: Apache-2.0
"""Whole systems as ONNX files, run by ONNX Runtime and, in plain operators, by OpenVINO."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.runs import DETECTOR, write_run
from pliant import convert
from pliant.export import compare_with_onnx, differences, export_onnx
from pliant.nn import DeformConv2d
from pliant.train.model import load_run

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.minutes,
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),  # OpenVINO traces by it
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
IMAGE = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(3))
SYSTEMS = {
    "faster-rcnn": DETECTOR,
    "mask-rcnn": {**DETECTOR, "roi_pool": "modulated"},
    "deeplab": {},
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_system(kind: str, tmp_path: Path) -> None:
    model, _, _ = load_run(write_run(tmp_path / "run", model=kind, **SYSTEMS[kind]))
    with torch.no_grad():
        expected = model([IMAGE])[0]
    path = tmp_path / "model.onnx"
    export_onnx(model, ([IMAGE],), path, input_names=["image"], output_names=list(expected))
    found = compare_with_onnx(path, {"image": IMAGE}, expected)
    assert all(difference.passes for difference in found), found
    assert all(difference.compared > 5 for difference in found)


def test_a_detector_that_finds_nothing(tmp_path: Path) -> None:
    model, _, _ = load_run(write_run(tmp_path / "run", **DETECTOR))
    model.roi_heads.score_thresh = 0.99
    with torch.no_grad():
        expected = model([IMAGE])[0]
    assert len(expected["boxes"]) == 0
    path = tmp_path / "model.onnx"
    export_onnx(model, ([IMAGE],), path, input_names=["image"], output_names=list(expected))
    [difference] = compare_with_onnx(path, {"image": IMAGE}, expected)
    assert (difference.value, difference.compared) == (0, 0)


def wild(model: nn.Module) -> nn.Module:
    """Give offset branches biases of a pixel's spread."""
    random = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            module.conv_offset.bias.data = torch.randn(module.conv_offset.bias.shape, generator=random)
    return model.eval()


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    """A converted ResNet-50: 13 modulated layers."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    return wild(convert(torchvision.models.resnet50(weights=None).eval(), "c3-c5"))


@pytest.mark.parametrize("decompose", [False, True], ids=["deform_conv", "plain"])
def test_resnet50_with_any_batch_and_size(resnet50: nn.Module, tmp_path: Path, decompose: bool) -> None:
    path, axes = tmp_path / "resnet.onnx", {"x": {0: "batch", 2: "height", 3: "width"}}
    options = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes, "decompose": decompose}
    export_onnx(resnet50, (torch.rand(1, 3, 64, 64),), path, **options)
    other = torch.rand(3, 3, 96, 72, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected: dict[str, Tensor] = {"y": resnet50(other)}
    assert all(difference.passes for difference in compare_with_onnx(path, {"x": other}, expected))
    if decompose:
        openvino = pytest.importorskip("openvino")
        compiled = openvino.compile_model(openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        got = {"y": torch.from_numpy(compiled([other.numpy()])[0])}
        assert all(difference.passes for difference in differences(got, expected))


def test_openvino_converts_resnet50(resnet50: nn.Module) -> None:
    openvino = pytest.importorskip("openvino")
    x = torch.rand(2, 3, 96, 72, generator=torch.Generator().manual_seed(1))
    converted = openvino.convert_model(resnet50, example_input=x[:1])
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = {"y": resnet50(x)}
    got = {"y": torch.from_numpy(compiled([x.numpy()])[0])}
    assert all(difference.passes for difference in differences(got, expected))
