# SPDX-License-Identifier: Apache-2.0
"""What CUDA graphs want of the host code, seen on tensors without data: nothing waits for the GPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.gpu.compile_matrix import (
    CUT,
    DEPTHWISE,
    GROUPS,
    LARGE,
    PS,
    PS_FIXED,
    ROI,
    ROI_FIXED,
    SMALL,
    V1,
    Layer,
    Pooling,
)
from pliant.ops import _triton
from pliant.ops._deform_conv2d import gpu_plan

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
HOPPER = _triton.Architecture("sm_90", 132)


class Watch(TorchDispatchMode):
    """The operations that were called, those that took data from one device to another, and the bytes handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.moved: list[str] = []
        self.bytes = 0
        self.seen: dict[int, Any] = {}  # storages, kept so that none is taken for another

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, results)) if isinstance(t, Tensor)]
        self.called.append(str(func))
        numbers = all(t.dim() == 0 for t in tensors if t.device.type == "cpu")  # which a launch takes as they are
        if len({t.device.type for t in tensors}) > 1 and not numbers:
            self.moved.append(str(func))
        for tensor in tree_leaves(results):
            if isinstance(tensor, FakeTensor) and (storage := tensor.untyped_storage())._cdata not in self.seen:
                self.seen[storage._cdata] = storage
                self.bytes += storage.nbytes()
        return results


def watched(work: Layer | Pooling, dtype: torch.dtype, *, deterministic: bool = False) -> Watch:
    from helpers.gpu.compiled import convolve, pool, recorded

    torch.use_deterministic_algorithms(deterministic)
    try:
        with recorded(HOPPER), Watch() as watch:
            pool(work, dtype) if isinstance(work, Pooling) else convolve(work, dtype)
    finally:
        torch.use_deterministic_algorithms(False)
    return watch


@pytest.mark.parametrize("work", [LARGE, SMALL, DEPTHWISE, V1, GROUPS, CUT, ROI, PS, ROI_FIXED, PS_FIXED], ids=str)
def test_nothing_waits_for_the_gpu(work: Layer | Pooling) -> None:
    """A tensor without data cannot be waited for: reading a value of it, or sizes that depend on one, raises."""
    watch = watched(work, torch.bfloat16)
    assert len(watch.called) > 5
    assert watch.moved == []


def test_what_waits_or_copies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.ops._pooling import gpu_pooling

    whole = gpu_pooling.image_index

    def reads(rois: Tensor, images: int) -> tuple[Tensor, Tensor]:
        assert bool((rois >= 0).all())
        return whole(rois, images)

    def copies(rois: Tensor, images: int) -> tuple[Tensor, Tensor]:
        return whole(torch.ones(512, 5).to(rois.device), images)

    monkeypatch.setattr(gpu_pooling, "image_index", copies)
    assert watched(ROI, torch.float32).moved
    monkeypatch.setattr(gpu_pooling, "image_index", reads)
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        watched(ROI, torch.float32)


def test_a_pass_takes_its_columns_once() -> None:
    """With deterministic algorithms PyTorch fills what it hands out: each chunk's columns, were they its own."""
    N, C, H, W = LARGE.shape
    columns = N * H * W * 9 * C * 2  # bytes
    assert columns > 2 * gpu_plan.WORKSPACE_BYTES, "several chunks"
    assert watched(LARGE, torch.bfloat16, deterministic=True).bytes < columns + gpu_plan.WORKSPACE_BYTES
