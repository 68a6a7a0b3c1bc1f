# SPDX-License-Identifier: Apache-2.0
"""What is timed: plain convolution, pliant, and the other libraries that are installed and have the operator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import conv2d

from pliant.ops import deform_conv2d

Run = Callable[[], object]


@dataclass
class Case:
    """One layer: a 3x3 modulated deformable convolution, stride 1, padding 1, normal offsets of `sigma` pixels."""

    N: int
    C: int
    H: int
    W: int
    O: int
    groups: int = 1
    sigma: float = 1.0
    dtype: torch.dtype = torch.float32
    threads: int | None = None  # where it is not the run's number

    baseline = "conv2d"
    modes = (False, True)  # whether training is timed

    def __str__(self) -> str:
        kind = "" if self.groups == 1 else f" groups={self.groups}"
        spread = "" if self.sigma == 1 else f" offsets of {self.sigma:g} pixels"
        threads = "" if self.threads is None else f" {self.threads} threads"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"({self.N},{self.C},{self.H},{self.W},{self.O}){kind} {dtype}{spread}{threads}"

    def tensors(self) -> dict[str, Tensor]:
        """Return input, offset, weight, mask and the gradient of the output."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        weight = normal(self.O, self.C // self.groups, 3, 3) / (9 * self.C // self.groups) ** 0.5
        maps = (self.N, self.O, self.H, self.W)
        t = {"input": normal(self.N, self.C, self.H, self.W), "weight": weight, "grad": normal(*maps)}
        t["mask"] = torch.rand(self.N, 9, self.H, self.W, generator=generator)
        t = {name: tensor.to(self.dtype) for name, tensor in t.items()}
        return t | {"offset": normal(self.N, 18, self.H, self.W) * self.sigma}

    def contenders(self, *, training: bool) -> dict[str, Run]:
        """Return what runs the case, by name; `training` is forward and backward for all inputs together."""
        runs: dict[str, Run] = {}
        t = self.tensors()
        names = ["input", "offset", "weight", "mask"]
        for layout, tensors in (("contiguous", t), ("channels_last", channels_last(t))):
            runs[f"conv2d {layout}"] = _timed(_plain, tensors, ["input", "weight"], self, training)
            runs[f"pliant {layout}"] = _timed(_pliant, tensors, names, self, training)
        if self.dtype == torch.float32:
            runs["torchvision"] = _timed(_torchvision, t, names, self, training)
            if not training and self.groups == 1:
                runs |= _runtimes(t)
        return runs

    def check(self) -> None:
        """Raise unless pliant's result for a corner of the case agrees with the reference."""
        t = Case(1, self.C, 9, 11, self.O, self.groups, self.sigma, self.dtype).tensors()
        fast, slow = (
            deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"], impl=impl)
            for impl in ("auto", "reference")
        )
        torch.testing.assert_close(fast, slow, atol=3e-2 if self.dtype.itemsize == 2 else 1e-4, rtol=1e-2)


def channels_last(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors stored channels-last."""
    return {name: tensor.contiguous(memory_format=torch.channels_last) for name, tensor in t.items()}


def _timed(
    function: Callable[[dict[str, Tensor], int], Tensor],
    tensors: dict[str, Tensor],
    names: list[str],
    case: Case,
    training: bool,
) -> Run:
    if not training:

        def forward() -> Tensor:
            with torch.no_grad():
                return function(tensors, case.groups)

        return forward
    leaves = {name: tensors[name].detach().requires_grad_() for name in names}

    def forward_backward() -> object:
        output = function(tensors | leaves, case.groups)
        return torch.autograd.grad(output, list(leaves.values()), tensors["grad"])

    return forward_backward


def _plain(t: dict[str, Tensor], groups: int) -> Tensor:
    return conv2d(t["input"], t["weight"], padding=1, groups=groups)


def _pliant(t: dict[str, Tensor], groups: int) -> Tensor:
    return deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"])


def _torchvision(t: dict[str, Tensor], groups: int) -> Tensor:
    result: Tensor = torchvision.ops.deform_conv2d(t["input"], t["offset"], t["weight"], padding=1, mask=t["mask"])
    return result


def _runtimes(t: dict[str, Tensor]) -> dict[str, Run]:
    """Return ONNX Runtime and OpenVINO, where they are installed, with as many threads as PyTorch."""
    runs: dict[str, Run] = {}
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        runs["onnxruntime"] = _onnxruntime(t)
    if importlib.util.find_spec("openvino"):
        runs["openvino"] = _openvino(t)
    return runs


def _onnxruntime(t: dict[str, Tensor]) -> Run:
    import onnx
    import onnxruntime

    arrays = {name: t[name].numpy() for name in ("input", "weight", "offset", "mask")}
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in arrays.items()]
    shape = list(t["grad"].shape)
    output = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, shape)
    node = onnx.helper.make_node(
        "DeformConv", ["input", "weight", "offset", "", "mask"], ["output"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    )
    graph = onnx.helper.make_graph([node], "deform_conv", values, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, arrays)


def _openvino(t: dict[str, Tensor]) -> Run:
    import openvino
    from openvino import opset8

    names = ("input", "offset", "weight", "mask")
    parameters = [opset8.parameter(list(t[n].shape), name=n) for n in names]
    data, offset, weight, mask = parameters
    ones, pads = [1, 1], [1, 1]
    node = opset8.deformable_convolution(
        data, offset, weight, ones, pads, pads, ones, mask=mask, bilinear_interpolation_pad=True
    )
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Model([node], parameters), "CPU", settings)
    request, arrays = compiled.create_infer_request(), {n: t[n].numpy() for n in names}
    return lambda: request.infer(arrays, share_inputs=True)
