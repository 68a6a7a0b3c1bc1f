# SPDX-License-Identifier: Apache-2.0
"""The one check that every implementation passes and every mutant fails."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from helpers.budget import assert_within_budget
from helpers.convolution.cases import Arguments, Case, expected
from helpers.convolution.plain import PlainDeformConv2d

Implementation = Callable[..., Tensor]
DIFFERENTIABLE = ("input", "offset", "weight", "bias", "mask")


def check_forward_backward(
    implementation: Implementation, case: Case, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> None:
    """Assert that the output and the five gradients of `implementation` on `case` agree with the float64 loops.

    The output first: where it is wrong already, as most mutants' is, no backward pass is run.
    """
    output, leaves = _forward(implementation, case.arguments(dtype, device))
    low, truth = _low_precision(case, dtype)[0], expected(case).output
    assert_within_budget(output.detach(), low, truth, f"{case.name} output")
    gradients = torch.autograd.grad(output, list(leaves.values()), case.upstream(dtype, device))
    check_gradients(dict(zip(leaves, gradients, strict=True)), case, dtype)


def check_gradients(gradients: dict[str, Tensor], case: Case, dtype: torch.dtype = torch.float64) -> None:
    """Assert that these are all gradients of `case`, and right."""
    truth, low = expected(case).gradients, _low_precision(case, dtype)[1]
    assert set(gradients) == set(truth), f"{case.name}: gradients for {sorted(gradients)}"
    for name, gradient in gradients.items():
        assert_within_budget(gradient, low[name], truth[name], f"{case.name} gradient of {name}")


def run(implementation: Implementation, arguments: Arguments, upstream: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and, by name, the gradient of each tensor argument."""
    output, leaves = _forward(implementation, arguments)
    gradients = torch.autograd.grad(output, list(leaves.values()), upstream)
    return output.detach(), dict(zip(leaves, gradients, strict=True))


def _forward(implementation: Implementation, arguments: Arguments) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output with its graph, and by name the tensors that have gradients."""
    leaves = {
        name: t.detach().requires_grad_() for name in DIFFERENTIABLE if (t := getattr(arguments, name)) is not None
    }
    return implementation(*arguments._replace(**leaves)), leaves


@functools.cache
def _low_precision(case: Case, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    return run(PlainDeformConv2d(), case.arguments(dtype), case.upstream(dtype))
