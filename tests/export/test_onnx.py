# SPDX-License-Identifier: Apache-2.0
"""Exported files, run by ONNX Runtime, against the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.detectors import build
from helpers.exported import largest
from pliant._check import PliantError
from pliant.classification import Classifier
from pliant.detection import faster_rcnn
from pliant.export import compare_with_onnx, export_onnx
from pliant.nn import DeformConv2d
from pliant.ops import deform_ps_roi_pool, deform_roi_pool

pytest.importorskip("onnxruntime")


def _wild(layer: nn.Module, spread: float = 0.3) -> None:
    for module in layer.modules():
        if isinstance(module, DeformConv2d):
            module.conv_offset.weight.data = torch.randn(*module.conv_offset.weight.shape) * spread
            module.conv_offset.bias.data = torch.randn(*module.conv_offset.bias.shape)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_with_all_its_options(tmp_path: Path, modulated: bool, bias: bool) -> None:
    layer = DeformConv2d(
        12, 8, (3, 5), (2, 1), (1, 3), (2, 1), groups=4, bias=bias, offset_groups=3, modulated=modulated
    ).eval()
    _wild(layer)
    inputs = {"x": torch.randn(2, 12, 9, 11)}
    path = tmp_path / "layer.onnx"
    export_onnx(layer, (inputs["x"],), path, input_names=["x"], output_names=["y"])
    assert largest(path, inputs, {"y": layer(inputs["x"]).detach()}) < 1e-5
    other = {"y": layer(inputs["x"]).detach() * torch.linspace(1, 1.1, 8).view(-1, 1, 1)}
    assert largest(path, inputs, other) > 1e-3  # the comparison can fail


def test_batch_and_size_may_vary(tmp_path: Path) -> None:
    layer = DeformConv2d(3, 4, 3, padding=1).eval()
    _wild(layer)
    path = tmp_path / "layer.onnx"
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    export_onnx(layer, (torch.randn(2, 3, 6, 7),), path, input_names=["x"], output_names=["y"], dynamic_axes=axes)
    inputs = {"x": torch.randn(3, 3, 10, 5)}
    assert largest(path, inputs, {"y": layer(inputs["x"]).detach()}) < 1e-5


class _Pool(nn.Module):
    def __init__(self, sampling_ratio: int) -> None:
        super().__init__()
        self.sampling_ratio = sampling_ratio

    def forward(self, x: Tensor, rois: Tensor, offset: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return deform_roi_pool(x, rois, (3, 4), offset, mask, 0.25, self.sampling_ratio, 0.2)


@pytest.mark.parametrize("opset", [16, 20])
def test_a_layer_in_plain_operators(tmp_path: Path, opset: int) -> None:
    onnx = pytest.importorskip("onnx")
    layer = DeformConv2d(12, 8, (3, 5), (2, 1), (1, 3), (2, 1), groups=4, offset_groups=3).eval()
    _wild(layer)
    inputs = {"x": torch.randn(2, 12, 9, 11)}
    path, axes = tmp_path / "layer.onnx", {"x": {0: "batch", 2: "height", 3: "width"}}
    options = {"dynamic_axes": axes, "opset": opset, "decompose": True}
    export_onnx(layer, (inputs["x"],), path, input_names=["x"], output_names=["y"], **options)
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    assert {"GridSample", "Conv"} <= {node.op_type for node in model.graph.node}
    other = {"x": torch.randn(3, 12, 14, 21)}
    assert largest(path, other, {"y": layer(other["x"]).detach()}) < 1e-5
    openvino = pytest.importorskip("openvino")
    compiled = openvino.compile_model(openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    got = torch.from_numpy(compiled([other["x"].numpy()])[0])
    torch.testing.assert_close(got, layer(other["x"]), rtol=1e-4, atol=1e-4)


def test_a_layer_whose_channels_no_exporter_knows(tmp_path: Path) -> None:
    """Behind an upsampling to the size of another map, PyTorch's exporter has lost all shapes."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = DeformConv2d(4, 6, 3, padding=1)

        def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
            up = nn.functional.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
            return self.layer(up + fine)

    model = Pyramid().eval()
    _wild(model)
    inputs = {"coarse": torch.randn(1, 4, 5, 6), "fine": torch.randn(1, 4, 9, 12)}
    path = tmp_path / "pyramid.onnx"
    axes = {name: {0: "n", 1: "c", 2: f"h_{name}", 3: f"w_{name}"} for name in inputs}
    options = {"input_names": list(inputs), "output_names": ["y"], "dynamic_axes": axes}
    export_onnx(model, tuple(inputs.values()), path, **options)
    assert largest(path, inputs, {"y": model(**inputs).detach()}) < 1e-5


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("names", [["x", "rois"], ["x", "rois", "offset"], ["x", "rois", "offset", "mask"]])
def test_roi_pooling_becomes_roi_align_over_bins(tmp_path: Path, names: list[str], sampling_ratio: int) -> None:
    # The bins of the last are 2 x 3 pixels, up to rounding: there RoIAlign's own would decide on one sample more.
    rois = torch.tensor([[1.0, 2.3, 5.1, 33.7, 40.2], [0.0, -6.0, 3.0, 20.5, 31.0], [1.0, 30.3, 10.7, 62.3, 46.7]])
    values = {
        "x": torch.randn(2, 5, 13, 12),
        "rois": rois,
        "offset": torch.randn(3, 2, 3, 4),
        "mask": torch.randn(3, 1, 3, 4),
    }
    inputs = {name: values[name] for name in names}
    path, pool = tmp_path / "pool.onnx", _Pool(sampling_ratio).eval()
    export_onnx(pool, tuple(inputs.values()), path, input_names=names, output_names=["y"])
    assert largest(path, inputs, {"y": pool(*inputs.values())}) < 1e-5


@pytest.mark.parametrize("roi_pool", ["align", "modulated"])  # the latter with maps that no region is pooled from
def test_a_detector(tmp_path: Path, roi_pool: str) -> None:
    torch.manual_seed(0)
    options = {"min_size": 96, "max_size": 128, "proposals": 20, "fpn_channels": 32, "roi_pool": roi_pool}
    model = build(faster_rcnn, 3, deform="c4-c5", **options).eval()
    _wild(model, spread=0.05)  # wilder, and rounding errors grow from layer to layer until NMS keeps other boxes
    image = torch.rand(3, 100, 120)
    with torch.no_grad():
        expected = model([image])[0]
    assert len(expected["boxes"])
    export_onnx(model, ([image],), tmp_path / "d.onnx", input_names=["image"], output_names=list(expected))
    [difference] = compare_with_onnx(tmp_path / "d.onnx", {"image": image}, expected)
    assert difference.compared > 10
    assert difference.value == 0


def test_a_classifier_that_cuts_the_middle(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [DeformConv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)]
    model = Classifier(nn.Sequential(*layers), resize_size=20, crop_size=15).eval()
    _wild(model)
    image = torch.rand(3, 30, 47)
    with torch.no_grad():
        expected = model([image])[0]
    export_onnx(model, ([image],), tmp_path / "c.onnx", input_names=["image"], output_names=list(expected))
    labels, scores = compare_with_onnx(tmp_path / "c.onnx", {"image": image}, expected)
    assert (labels.output, labels.measure, labels.value) == ("labels", "labels that differ", 0)
    assert (scores.output, scores.compared) == ("scores", 5)
    assert scores.value < 1e-5


class _Scores(nn.Module):
    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        return deform_ps_roi_pool(x, rois, 2, 1, group_size=2)


class _Parts(nn.Module):
    def forward(self, x: Tensor, rois: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return deform_ps_roi_pool(x, rois, (3, 2), 2, offset, mask, 0.25, 2, (3, 2), 3, 0.2)


def test_position_sensitive_pooling_in_plain_operators(tmp_path: Path) -> None:
    inputs = {
        "x": torch.randn(2, 8, 13, 11),
        "rois": torch.tensor(
            [
                [1.0, 2.3, 5.1, 33.7, 40.2],
                [0.0, -6.0, 3.0, 20.5, 31.0],
                [1.0, 30.3, 10.7, 62.3, 46.7],
                [0.0, 12.5, -4.1, 19.0, 55.9],
                [1.0, 1.0, 2.0, 2.0, 3.0],
                [0.0, 8.2, 20.5, 43.5, 36.6],
            ]
        ),
        "offset": torch.randn(6, 4, 3, 2),
        "mask": torch.rand(6, 2, 3, 2),
    }
    path, model = tmp_path / "pool.onnx", _Parts().eval()
    axes = {"rois": {0: "rois"}, "offset": {0: "rois"}, "mask": {0: "rois"}}
    options = {"dynamic_axes": axes, "decompose": True}
    export_onnx(model, tuple(inputs.values()), path, input_names=list(inputs), output_names=["y"], **options)
    assert largest(path, inputs, {"y": model(*inputs.values())}) < 1e-5
    few = {name: value if name == "x" else value[1:] * 0.9 for name, value in inputs.items()}
    few["rois"] = inputs["rois"][1:] + torch.tensor([0, 1.3, 2.1, 5.4, 3.3])
    assert largest(path, few, {"y": model(*few.values())}) < 1e-5


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path: Path) -> None:
    layer = DeformConv2d(3, 4, 3)
    names = {"input_names": ["x"], "output_names": ["y"]}
    with pytest.raises(
        PliantError, match=r"model: must be in evaluation mode; got training mode; call model\.eval\(\)"
    ):
        export_onnx(layer, (torch.randn(1, 3, 6, 7),), tmp_path / "a", **names)
    wanted = "opset: must be at least 19, the first with DeformConv; got 18; leave it out, or decompose, which needs 16"
    with pytest.raises(PliantError, match=wanted):
        export_onnx(layer.eval(), (torch.randn(1, 3, 6, 7),), tmp_path / "a", opset=18, **names)
    with pytest.raises(
        PliantError, match="opset: must be at least 16, the first with GridSample; got 15; leave it out"
    ):
        export_onnx(layer, (torch.randn(1, 3, 6, 7),), tmp_path / "a", opset=15, decompose=True, **names)
    pooled = (torch.randn(1, 4, 6, 7), torch.tensor([[0.0, 1, 1, 4, 4]]))
    wanted = "model: must be made of operators that ONNX has in opset 19; got .*deform_ps_roi_pool.*; decompose it"
    with pytest.raises(PliantError, match=wanted):
        export_onnx(_Scores().eval(), pooled, tmp_path / "b", input_names=["x", "rois"], output_names=["y"])
