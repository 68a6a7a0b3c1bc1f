# SPDX-License-Identifier: Apache-2.0
"""What of the GPU path runs without one: plans and their memory, the choice of path, a device that is not there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.cases import BY_NAME
from helpers.checks import Implementation, check_forward_backward, check_gradients
from pliant._geometry import ConvGeometry
from pliant.ops import _backends, _triton, deform_conv2d
from pliant.ops._deform_conv2d import contract, gpu_columns, gpu_plan
from pliant.ops._deform_conv2d.gpu_plan import BackwardPlan, plan_backward
from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution
from pliant.ops._deform_conv2d.gpu_tiles import FUSED, Layer, elementwise_tile, fused_tile, sample_tile

UNIT = ConvGeometry((1, 1), (1, 1), (1, 1))
CUDA = torch.device("cuda", 0)
no_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
# (N, C, H, W, O, weight groups, offset groups): the benchmark's layers, then larger and odder ones.
SHAPES = [
    (8, 256, 64, 64, 256, 1, 1), (8, 512, 32, 32, 512, 1, 1), (2, 128, 160, 160, 128, 1, 1),
    (2, 256, 100, 168, 256, 1, 1), (1, 256, 200, 336, 256, 1, 1), (4, 2048, 16, 32, 2048, 1, 4),
    (2, 96, 100, 168, 96, 96, 1), (1, 67, 300, 300, 9, 1, 1), (1, 256, 128, 256, 64, 32, 8),
    (64, 256, 14, 14, 256, 1, 1),
]  # fmt: skip


def tensors(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return input (channels_last), offset, weight and mask of a 3x3 layer."""
    N, C, H, W, O, groups, G = shape
    last = torch.channels_last
    x = torch.empty(N, C, H, W, dtype=dtype, device=device).contiguous(memory_format=last)
    offset = torch.empty(N, 18 * G, H, W, device=device)
    return x, offset, x.new_empty(O, C // groups, 3, 3), x.new_empty(N, 9 * G, H, W)


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("workspace", [64 << 20, 1 << 20])
def test_a_plan_covers_all_once(
    shape: tuple[int, ...], dtype: torch.dtype, workspace: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_plan, "WORKSPACE_BYTES", workspace)
    x, offset, weight, mask = tensors(shape, dtype, "meta")
    problem = GpuConvolution(x, offset, weight, UNIT, mask)
    plan = plan_backward(problem, deterministic=False)
    assert [c for s in plan.slices for c in range(s.begin, s.begin + s.width)] == list(range(problem.C))
    ends = [0] + [chunk.first + chunk.count for chunk in plan.chunks]
    assert [chunk.first for chunk in plan.chunks] == ends[:-1]
    assert ends[-1] == problem.M
    P = problem.Ho * problem.Wo
    for chunk in plan.chunks:
        assert chunk.image == chunk.first // P
        assert chunk.image + chunk.images == -(-(chunk.first + chunk.count) // P)
    for s in plan.slices:
        for run in (problem.per_group, problem.C // problem.G):
            assert s.begin // run == (s.begin + s.width - 1) // run or s.begin % run == 0 == s.width % run


class Memory(TorchDispatchMode):
    """The bytes of storages that live at once, of those that came up while this was on."""

    def __init__(self, *before: Tensor) -> None:
        super().__init__()
        self.before = {t.untyped_storage()._cdata for t in before}
        self.known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.before:
                    self.known.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.known = {k: (ref, size) for k, (ref, size) in self.known.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.known.values()))
        return out


@no_triton
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_backward_pass_keeps_its_memory(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted beyond arguments and results, without what PyTorch's sort holds, for which the plan leaves room."""
    from pliant.ops._deform_conv2d.gpu_backward import deform_conv2d_triton_backward

    monkeypatch.setattr(_triton, "launch", lambda *arguments, **options: None)
    with FakeTensorMode():
        x, offset, weight, mask = tensors(shape, dtype, "cuda")
        grad = torch.empty(shape[0], shape[4], *offset.shape[2:], dtype=dtype, device="cuda")
        grad = grad.contiguous(memory_format=torch.channels_last)
        with Memory(grad, x, offset, weight, mask) as memory:
            results = deform_conv2d_triton_backward(grad, x, offset, weight, mask, UNIT, [True] * 5)
    results_bytes = sum(t.numel() * t.element_size() for t in results)
    assert memory.peak > results_bytes
    assert (memory.peak - results_bytes) / 2**20 <= gpu_plan.WORKSPACE_BYTES / 2**20


def test_paths_of_a_plan() -> None:
    def plan(shape: tuple[int, ...], deterministic: bool = False) -> BackwardPlan:
        x, offset, weight, mask = tensors(shape, torch.bfloat16, "meta")
        return plan_backward(GpuConvolution(x, offset, weight, UNIT, mask), deterministic=deterministic)

    small, large = (1, 128, 32, 32, 128, 1, 1), SHAPES[0]
    assert plan(small).scatter
    assert not plan(small, deterministic=True).scatter
    assert not plan(large).scatter
    assert plan(large).sorts_once
    assert plan(large) == plan(large, deterministic=True)


# -- tiles, indices, precision -----------------------------------------------------------------------------------------


def test_tiles_shrink_with_the_layer() -> None:
    hopper, unknown = _triton.Architecture("sm_90", 132), _triton.Architecture("sm_42", 10)
    wide = fused_tile(hopper, Layer(torch.bfloat16, 32768, 1, 256, 256))
    assert wide == FUSED["sm_90"][16][0]
    assert fused_tile(hopper, Layer(torch.bfloat16, 2100, 1, 256, 256)).positions < wide.positions
    narrow = fused_tile(hopper, Layer(torch.bfloat16, 32768, 1, 20, 20))
    assert (narrow.outputs, narrow.channels) == (32, 32)
    assert fused_tile(unknown, Layer(torch.float32, 32768, 1, 256, 256)) == FUSED["default"][32][0]


def test_tiles_leave_room_where_a_tile_would_spill_registers() -> None:
    scattered, sorted_ = (sample_tile(torch.float32, 256, scatters=scatters) for scatters in (True, False))
    assert scattered.channels < sorted_.channels
    assert elementwise_tile(torch.float64, 256).outputs < elementwise_tile(torch.float32, 256).outputs


@no_triton
def test_a_depthwise_layer_has_no_tiles_to_choose_from() -> None:
    from pliant.ops._deform_conv2d.gpu_tune import tune_deform_conv2d

    x, offset, weight, mask = tensors((1, 8, 5, 5, 8, 8, 1), torch.float32, "meta")
    with pytest.raises(ValueError, match="weight: must have more than 4 channels in a group, since others multiply"):
        tune_deform_conv2d(x, offset, weight, None, UNIT, mask)


def test_indices_are_64_bits_wide_where_they_must_be() -> None:
    def wide(n: int) -> bool:
        x, offset, weight, mask = tensors((n, 256, 512, 512, 16, 1, 1), torch.bfloat16, "meta")
        return GpuConvolution(x, offset, weight, UNIT, mask).wide

    assert not wide(31)
    assert wide(32)


def test_float32_is_multiplied_as_the_switch_says() -> None:
    assert _triton.dot_precision(torch.float32) == "ieee"
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert _triton.dot_precision(torch.float32) == "tf32"
        assert _triton.dot_precision(torch.float64) == "ieee"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


# -- GPUs that Triton cannot serve -------------------------------------------------------------------------------------


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
def test_which_gpus_are_served(
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
    assert _triton.why_not(torch.device("cpu")) == "it serves CUDA and ROCm tensors, not those on cpu"
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
    _backends.warn_columns.cache_clear()
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
        g = gpu_columns.deform_conv2d_columns_backward(grad, x, o, w, m, ctx.geometry)
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
    code = "import sys; from pliant.ops import deform_conv2d; from pliant.ops._deform_conv2d import gpu_plan, gpu_tiles, gpu_problem; assert not [m for m in sys.modules if m.startswith('triton')]"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_triton_is_refused_under_compile_too(reference: Implementation) -> None:
    compiled = torch.compile(deform_conv2d, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="'triton' cannot run; got it serves CUDA and ROCm tensors"):
        compiled(*BY_NAME["asymmetric"].arguments(torch.float32), impl="triton")
