# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels on a real GPU against float64 on the CPU, with all that needs one: graphs, streams, memory.

python -m pytest tests/gpu/test_on_device.py
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.budget import assert_within_budget
from helpers.convolution.cases import BY_NAME, CASES, Arguments, Case
from helpers.convolution.checks import DIFFERENTIABLE, check_forward_backward, run
from pliant.ops import _triton, deform_conv2d
from pliant.ops._deform_conv2d import gpu_plan

WHY_NOT = _triton.why_not(torch.device("cuda")) if torch.cuda.is_available() else "no CUDA or ROCm device here"
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
triton = functools.partial(deform_conv2d, impl="triton")
# Layers of a real size, whose gradients are sorted; every path of the plan and of the tiles.
LAYERS = (
    Case("layer", 2, 64, (61, 47), 96, (3, 3), padding=(1, 1), layout="channels_last"),
    Case("layer_contiguous", 2, 64, (61, 47), 40, (3, 3), (2, 1), (1, 1), offset_groups=4),
    Case("layer_grouped", 2, 128, (31, 45), 64, (3, 3), padding=(1, 1), groups=4, offset_groups=2),
    Case("layer_depthwise", 2, 96, (61, 47), 96, (5, 5), padding=(2, 2), groups=96, layout="channels_last"),
)
LARGE = Case("large", 2, 256, (100, 168), 256, (3, 3), padding=(1, 1), layout="channels_last")


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask for deterministic algorithms, which PyTorch grants products only with this setting of cuBLAS."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def fine(case: Case, dtype: torch.dtype, device: str = "cuda") -> tuple[Arguments, Tensor]:
    """Return arguments and upstream gradient with full mantissas."""
    generator = torch.Generator().manual_seed(5)
    coarse = case.arguments(torch.float32)

    def normal(like: Tensor, scale: float) -> Tensor:
        value = torch.empty_like(like).copy_(torch.randn(like.shape, generator=generator) * scale)
        return value.to(device, dtype)

    scale = (case.taps * case.channels / case.groups) ** -0.5
    changed = {"input": normal(coarse.input, 1), "offset": normal(coarse.offset, 2)}
    changed["weight"] = normal(coarse.weight, scale)
    rest = {name: getattr(coarse, name).to(device, dtype) for name in ("bias", "mask")}
    return coarse._replace(**changed, **rest), normal(case.upstream(torch.float32), 1)


def to(arguments: Arguments, *target: Any) -> Arguments:
    return arguments._make(a.to(*target) if isinstance(a, Tensor) else a for a in arguments)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_gradients_match_the_loops(case: Case, dtype: torch.dtype) -> None:
    check_forward_backward(triton, case, dtype, "cuda")


@pytest.mark.parametrize("case", CASES)
def test_sorted_gradients_match_the_loops(case: Case, deterministic: None) -> None:
    check_forward_backward(triton, case, torch.float32, "cuda")


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("workspace", [64 << 20, 1 << 20], ids=["whole", "cut"])
def test_layers_match_float64(case: Case, dtype: torch.dtype, workspace: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_plan, "WORKSPACE_BYTES", workspace)
    arguments, upstream = fine(case, dtype)
    output, gradients = run(triton, arguments, upstream)
    reference = functools.partial(deform_conv2d, impl="reference")
    low, low_gradients = run(reference, to(arguments, "cpu"), upstream.cpu())
    truth, true_gradients = run(reference, to(arguments, "cpu", torch.float64), upstream.cpu().double())
    assert_within_budget(output, low, truth, "output")
    for name, gradient in gradients.items():
        assert_within_budget(gradient, low_gradients[name], true_gradients[name], name)


def test_tf32_follows_the_switch() -> None:
    arguments, _ = fine(LAYERS[0], torch.float32)
    full = triton(*arguments)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        short = triton(*arguments)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert not torch.equal(full, short)
    torch.testing.assert_close(short, full, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_64_bit_indices(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, deterministic: None) -> None:
    arguments, upstream = fine(LAYERS[1], dtype)
    output, gradients = run(triton, arguments, upstream)
    monkeypatch.setattr(_triton, "LARGEST_INT32", 0)
    wide, wide_gradients = run(triton, arguments, upstream)
    assert torch.equal(output, wide)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, wide_gradients[name]), name


def test_an_image_beyond_32_bit_indices() -> None:
    """The last image of a batch of more than 2^31 elements is the same as alone."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free memory")
    x = torch.randn(33, 256, 512, 512, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    weight = torch.randn(16, 256, 1, 1, device="cuda", dtype=torch.bfloat16)
    offset = torch.randn(33, 2, 512, 512, device="cuda")
    y = triton(x, offset, weight)
    assert torch.equal(y[-1:], triton(x[-1:], offset[-1:], weight))


@pytest.mark.parametrize("case", [LAYERS[3], LARGE])
def test_large_layers_give_the_same_bits_each_time(case: Case) -> None:
    arguments, upstream = fine(case, torch.bfloat16)
    output, gradients = run(triton, arguments, upstream)
    for _ in range(3):
        again, gradients_again = run(triton, arguments, upstream)
        assert torch.equal(output, again)
        for name, gradient in gradients.items():
            assert torch.equal(gradient, gradients_again[name]), name


def test_small_layers_give_the_same_bits_where_asked(deterministic: None) -> None:
    case = BY_NAME["channels_last"]
    arguments, upstream = case.arguments(torch.float32, "cuda"), case.upstream(torch.float32, "cuda")
    (_, first), (_, second) = run(triton, arguments, upstream), run(triton, arguments, upstream)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", [BY_NAME["channels_last"], *LAYERS], ids=lambda c: c.name)
def test_a_graph_captures_forward_and_backward(case: Case) -> None:
    arguments, upstream = fine(case, torch.bfloat16)
    leaves = arguments._replace(**{n: getattr(arguments, n).requires_grad_() for n in DIFFERENTIABLE})
    tensors = [getattr(leaves, n) for n in DIFFERENTIABLE]

    def step() -> tuple[Tensor, ...]:
        output = triton(*leaves)
        return (output, *torch.autograd.grad(output, tensors, upstream))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    other, _ = fine(case, torch.bfloat16)
    with torch.no_grad():
        leaves.input.copy_(other.input.roll(1, 2))
        leaves.offset.copy_(other.offset.flip(0))
    graph.replay()
    for found, expected in zip(captured, step(), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_compiles_with_reduced_overhead() -> None:
    compiled = torch.compile(triton, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):  # warm up, record, replay
        check_forward_backward(compiled, BY_NAME["channels_last"], torch.float32, "cuda")


def test_several_streams_do_not_mix() -> None:
    cases = [fine(case, torch.bfloat16) for case in LAYERS]
    expected = [run(triton, *arguments) for arguments in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    found: list[Any] = [None] * len(cases)
    for _, (i, stream) in itertools.product(range(4), enumerate(streams)):
        with torch.cuda.stream(stream):
            found[i] = run(triton, *cases[i])
    torch.cuda.synchronize()
    for (output, gradients), (output_2, gradients_2) in zip(found, expected, strict=True):
        assert torch.equal(output, output_2)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, gradients_2[name], rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
def test_a_device_that_is_not_the_current_one() -> None:
    check_forward_backward(triton, BY_NAME["asymmetric"], torch.float32, "cuda:1")
    assert torch.cuda.current_device() == 0


def test_memory_beyond_arguments_and_results() -> None:
    arguments, upstream = fine(LARGE, torch.bfloat16)
    leaves = [getattr(arguments, n).requires_grad_() for n in DIFFERENTIABLE]
    torch.autograd.grad(triton(*arguments), leaves, upstream)  # the first product gets cuBLAS its workspace
    output = triton(*arguments)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients = torch.autograd.grad(output, leaves, upstream)
    results = sum(g.numel() * g.element_size() for g in gradients)
    assert torch.cuda.max_memory_allocated() - before - results <= gpu_plan.WORKSPACE_BYTES + (1 << 20)


def test_autocast_keeps_the_offset() -> None:
    arguments, _ = fine(LAYERS[0], torch.float32)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = triton(*arguments)
    low = to(arguments, torch.bfloat16)._replace(offset=arguments.offset)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, triton(*low))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", ["asymmetric", "depthwise", "channels_last"])
def test_opcheck(name: str) -> None:
    arguments = BY_NAME[name].arguments(torch.float32, "cuda")
    leaves = {n: t.detach().requires_grad_() for n in DIFFERENTIABLE if (t := getattr(arguments, n)) is not None}
    found = torch.library.opcheck(torch.ops.pliant.deform_conv2d.default, tuple(arguments._replace(**leaves)))
    assert set(found.values()) == {"SUCCESS"}
