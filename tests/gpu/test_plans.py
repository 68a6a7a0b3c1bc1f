# SPDX-License-Identifier: Apache-2.0
"""What the host code decides without a GPU: plans of the backward pass, tiles, widths of indices, precision."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from pliant._geometry import ConvGeometry
from pliant.ops import _triton
from pliant.ops._deform_conv2d import gpu_plan
from pliant.ops._deform_conv2d.gpu_plan import BackwardPlan, plan_backward
from pliant.ops._deform_conv2d.gpu_problem import GpuConvolution
from pliant.ops._deform_conv2d.gpu_tiles import FUSED, Layer, elementwise_tile, fused_tile, sample_tile

UNIT = ConvGeometry((1, 1), (1, 1), (1, 1))
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
            results = deform_conv2d_triton_backward(grad, x, offset, weight, UNIT, mask, [True] * 5)
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
