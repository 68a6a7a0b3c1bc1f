# SPDX-License-Identifier: Apache-2.0
"""RoI pooling on a real GPU, where there is one, against the float64 loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.pooling.cases import BY_NAME, CASES, RoIArguments, RoICase
from helpers.pooling.checks import Result, check_forward_backward, run
from pliant.ops import _triton

REASON = _triton.why_not(torch.device("cuda")) if torch.cuda.is_available() else "there is no GPU"
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"needs a GPU: {REASON}")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def on_device(case: RoICase, arguments: RoIArguments, upstream: Tensor) -> Result:
    """Run a case on the GPU and bring what comes out back."""
    moved = RoIArguments(*(None if t is None else t.cuda() for t in arguments))
    output, gradients = run(case, moved, upstream.cuda(), impl="triton")
    return output.cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_match_the_loops(case: RoICase, dtype: torch.dtype, deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    try:
        check_forward_backward(on_device, case, dtype)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_deterministic_gradient_is_the_same_bits_each_time() -> None:
    case = BY_NAME["dyadic"]
    arguments, upstream = case.arguments(torch.float32), case.upstream(torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [on_device(case, arguments, upstream)[1]["input"] for _ in range(8)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("name", ["asymmetric", "adaptive", "ps_asymmetric"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_graph_replays_forward_and_backward_on_new_boxes(name: str, deterministic: bool) -> None:
    case = BY_NAME[name]
    arguments = RoIArguments(*(None if t is None else t.cuda() for t in case.arguments(torch.float32)))
    upstream = case.upstream(torch.float32).cuda()
    torch.use_deterministic_algorithms(deterministic)
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run(case, arguments, upstream, impl="triton")  # compiled before the capture
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output, gradients = run(case, arguments, upstream, impl="triton")
        arguments.boxes[:, 1:] += 1.25
        graph.replay()
        expected, expected_gradients = run(case, arguments, upstream, impl="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    for gradient_name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[gradient_name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asymmetric", "ps_asymmetric"])
def test_compiles_with_reduced_overhead(name: str) -> None:
    case = BY_NAME[name]
    compiled = torch.compile(lambda arguments: case.call(arguments, "triton"), fullgraph=True, mode="reduce-overhead")
    for _ in range(3):  # warm up, record, replay
        arguments = RoIArguments(*(None if t is None else t.cuda() for t in case.arguments(torch.float32)))
        leaves = {n: getattr(arguments, n).requires_grad_() for n in case.differentiable}
        output = compiled(arguments._replace(**leaves))
        found = torch.autograd.grad(output, list(leaves.values()), case.upstream(torch.float32).cuda())
        expected = run(case, arguments, case.upstream(torch.float32).cuda(), impl="triton")
        torch.testing.assert_close(output.detach(), expected[0])
        for gradient, name_ in zip(found, leaves, strict=True):
            torch.testing.assert_close(gradient, expected[1][name_], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
@pytest.mark.parametrize("name", ["asymmetric", "ps_asymmetric"])
def test_a_device_that_is_not_the_current_one(name: str) -> None:
    case = BY_NAME[name]

    def elsewhere(case: RoICase, arguments: RoIArguments, upstream: Tensor) -> Result:
        moved = RoIArguments(*(None if t is None else t.to("cuda:1") for t in arguments))
        output, gradients = run(case, moved, upstream.to("cuda:1"), impl="triton")
        return output.cpu(), {name: gradient.cpu() for name, gradient in gradients.items()}

    check_forward_backward(elsewhere, case, torch.float32)
    assert torch.cuda.current_device() == 0
