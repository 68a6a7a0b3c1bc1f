# SPDX-License-Identifier: Apache-2.0
"""RoI pooling on a real GPU, where there is one, against the float64 loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.roi_cases import BY_NAME, CASES, RoIArguments, RoICase
from helpers.roi_checks import Result, check_forward_backward, run
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
def test_a_graph_replays_on_new_boxes(name: str) -> None:
    case = BY_NAME[name]
    arguments = RoIArguments(*(None if t is None else t.cuda() for t in case.arguments(torch.float32)))
    with torch.no_grad():
        case.call(arguments, "triton")  # compiled before the capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = case.call(arguments, "triton")
        arguments.boxes[:, 1:] += 1.25
        graph.replay()
        torch.testing.assert_close(output, case.call(arguments, "triton"), rtol=0, atol=0)
