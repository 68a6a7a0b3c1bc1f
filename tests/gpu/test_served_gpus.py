# SPDX-License-Identifier: Apache-2.0
"""Which GPUs the kernels serve, what serves the others, and tracing for a GPU that is not there."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.convolution.cases import BY_NAME
from helpers.convolution.checks import Implementation, check_forward_backward, check_gradients
from helpers.fresh import output_of
from pliant._geometry import ConvGeometry
from pliant.ops import _backends, _triton, deform_conv2d
from pliant.ops._deform_conv2d import contract, gpu_columns

CUDA = torch.device("cuda", 0)
no_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


# -- GPUs on which Triton cannot run -----------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Let PyTorch describe a GPU that is not there."""
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132, gcnArchName="gfx942:sramecc+")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (properties.major, properties.minor))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A Card")
    monkeypatch.setattr(_triton, "import_problem", lambda: None)
    caches = (_triton._architecture, _triton._unfit)
    for cache in caches:
        cache.cache_clear()
    yield properties
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    ("change", "hip", "reason"),
    [
        ({}, None, None),
        ({"major": 8}, None, None),
        ({"major": 7, "minor": 5}, None, "A Card is sm_75; the kernels need sm_80 (Ampere) or newer"),
        ({}, "6.3", None),
        ({"gcnArchName": "gfx1100"}, "6.3",
         "A Card is gfx1100; the kernels need CDNA 2 or newer (gfx90a, gfx942, gfx950)"),
    ],
)  # fmt: skip
def test_on_which_gpus_the_kernels_run(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], hip: str | None, reason: str | None
) -> None:
    vars(gpu).update(change)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert _triton.why_not(CUDA) == reason
    available, text = _triton.describe()
    assert available == (reason is None)
    assert reason is None or text == reason
    assert not available or text.endswith("on gfx942" if hip else f"on sm_{gpu.major}0")


@no_triton
def test_the_reasons_without_a_gpu() -> None:
    assert _triton.why_not(torch.device("cpu")) == "its kernels run on CUDA and ROCm tensors, not on cpu"
    if not torch.cuda.is_available():
        assert _triton.why_not(CUDA) is None, "tensors without data are traced for another machine"
        assert _triton.describe() == (False, "PyTorch sees no CUDA or ROCm device here")
    row = next(r for r in _backends.describe() if r[:2] == ("deform_conv2d", "triton (GPU)"))
    assert (row.available, row.reason) == _triton.describe()


def test_without_triton_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _triton.import_problem.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    reason = _triton.why_not(CUDA)
    _triton.import_problem.cache_clear()
    assert reason is not None
    assert reason.startswith("Triton cannot be imported (")
    assert reason.endswith("pip install triton")


def test_other_gpus_take_the_columns_path_and_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _backends._warn_once.cache_clear()
    monkeypatch.setattr(_backends, "why_no_triton", lambda device: "no such luck")
    case = BY_NAME["asymmetric"]
    x, offset, weight, bias, *geometry, mask = case.arguments(torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            y = contract.forward_cuda(x, offset, weight, bias, *geometry, mask)
    assert [str(w.message) for w in caught] == [
        "pliant.ops.deform_conv2d runs on PyTorch's own operations, a band of rows at a time: no such luck"
    ]
    torch.testing.assert_close(y, deform_conv2d(x, offset, weight, bias, *geometry, mask, impl="reference"))
    needed = [True, True, True, True, True]
    found = contract.backward_cuda(case.upstream(torch.float32), x, offset, weight, *geometry, mask, needed)
    names = ("input", "offset", "weight", "bias", "mask")
    check_gradients(dict(zip(names, found, strict=True)), case, torch.float32)


def test_the_reference_says_why_of_the_device_that_has_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    _backends._warn_once.cache_clear()
    monkeypatch.setattr(_backends, "why_no_triton", lambda device: f"{device} is too old")
    with pytest.warns(RuntimeWarning, match=r"deform_roi_pool runs its slow .* on cuda: cuda:1 is too old; pass"):
        _backends.warn_reference("deform_roi_pool", torch.device("cuda", 1))


@pytest.mark.parametrize("name", ["asymmetric", "wide_steps", "depthwise", "far", "channels_last", "strided"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_columns_path_row_by_row(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_columns, "BAND_BYTES", 1)
    case = BY_NAME[name]

    def columns(*arguments: Any) -> Tensor:
        return _Columns.apply(*arguments)  # type: ignore[no-any-return]

    check_forward_backward(columns, case, dtype)


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, o: Tensor, w: Tensor, b: Tensor | None, s: Any, p: Any, d: Any, m: Any) -> Tensor:
        ctx.saved, ctx.geometry, ctx.has_bias = (x, o, w, m), ConvGeometry(s, p, d), b is not None
        return gpu_columns.deform_conv2d_columns(x, o, w, b, ctx.geometry, m)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, o, w, m = ctx.saved
        g = gpu_columns.deform_conv2d_columns_backward(grad, x, o, w, ctx.geometry, m)
        return g[0], g[1], g[2], g[3] if ctx.has_bias else None, None, None, None, None if m is None else g[4]


# -- a device that is not there ----------------------------------------------------------------------------------------


class _Model(nn.Module):
    def __init__(self, impl: str) -> None:
        super().__init__()
        self.offset = nn.Conv2d(8, 27, 3, padding=1)
        self.weight, self.impl = nn.Parameter(torch.empty(6, 8, 3, 3)), impl

    def forward(self, x: Tensor) -> Tensor:
        p = self.offset(x)
        options: Any = {"mask": p[:, 18:].sigmoid(), "impl": self.impl}
        return deform_conv2d(x, p[:, :18], self.weight, padding=1, **options)


@pytest.mark.parametrize("impl", ["auto", pytest.param("triton", marks=no_triton)])
def test_a_model_is_traced_for_a_gpu_that_is_not_there(impl: str) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        model = _Model(impl)
        x = torch.empty(2, 8, 5, 7).contiguous(memory_format=torch.channels_last)
        y = model(x)
        exported = torch.export.export(model, (x,))
        maps = torch.empty(2, 27, 5, 7)
        arguments = (y, x, maps[:, :18], model.weight, [1, 1], [1, 1], [1, 1], maps[:, 18:], [True] * 5)
        gradients = torch.ops.pliant.deform_conv2d_backward(*arguments)  # the engine itself wants a GPU
    assert y.device.type == "cuda"
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert [g.device.type for g in gradients] == ["cuda"] * 5
    assert [tuple(g.shape) for g in gradients] == [(2, 8, 5, 7), (2, 18, 5, 7), (6, 8, 3, 3), (6,), (2, 9, 5, 7)]
    assert torch.ops.pliant.deform_conv2d.default in [node.target for node in exported.graph.nodes]


def test_nothing_here_imports_triton_before_a_gpu_needs_it() -> None:
    code = "import sys; from pliant.ops import deform_conv2d\n"
    code += "from pliant.ops._deform_conv2d import gpu_plan, gpu_problem, gpu_tiles\n"
    assert output_of(code + "print([m for m in sys.modules if m.startswith('triton')])") == "[]"


def test_triton_is_refused_under_compile_too(reference: Implementation) -> None:
    compiled = torch.compile(deform_conv2d, backend="eager", fullgraph=True)
    with pytest.raises(
        Exception, match="'triton' needs a GPU that its kernels can run on; its kernels run on CUDA and ROCm tensors"
    ):
        compiled(*BY_NAME["asymmetric"].arguments(torch.float32), impl="triton")
