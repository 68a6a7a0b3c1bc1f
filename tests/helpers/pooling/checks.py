# SPDX-License-Identifier: Apache-2.0
"""The one check that every implementation of RoI pooling passes and every mutant fails."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.budget import assert_within_budget
from helpers.pooling.cases import RoIArguments, RoICase, expected
from helpers.pooling.plain import model_of
from pliant.ops import _backends
from pliant.ops._deform_ps_roi_pool import contract as ps_contract
from pliant.ops._deform_roi_pool import contract as plain_contract

Result = tuple[Tensor, dict[str, Tensor]]
Runner = Callable[[RoICase, RoIArguments, Tensor], Result]


def require(impl: str) -> str:
    """Return `impl`; skip the test where this installation cannot run it."""
    if impl == "native" and _backends.native_library() is None:
        pytest.skip(f"no native library: {_backends.why_no_native()}")
    return impl


def runner(impl: str) -> Runner:
    """Return a function that runs a case's public function with `impl`, forward and backward.

    "closed_form" is what a device without kernels runs, on any device: it is called past the dispatcher.
    """
    return run_closed_form if impl == "closed_form" else functools.partial(run, impl=impl)


def run(case: RoICase, arguments: RoIArguments, upstream: Tensor, *, impl: str) -> Result:
    """Return the output and, by name, the gradient of each tensor that has one."""
    leaves = {name: getattr(arguments, name).detach().requires_grad_() for name in case.differentiable}
    output = case.call(arguments._replace(**leaves), impl)
    gradients = torch.autograd.grad(output, list(leaves.values()), upstream)
    return output.detach(), dict(zip(leaves, gradients, strict=True))


def run_closed_form(case: RoICase, arguments: RoIArguments, upstream: Tensor) -> Result:
    """Do as `run` does with the functions that are registered for all devices."""
    operator = (plain_contract if case.operator == "plain" else ps_contract).OPERATOR
    attributes = attributes_of(case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pliant.ops.deform", RuntimeWarning)
        output = operator.forward_reference(*arguments, *attributes)
    names = ("input", "boxes", "offset", "mask") if case.operator == "plain" else ("input", "offset", "mask")
    needed = [name in case.differentiable for name in names]
    found = operator.backward_reference(upstream, *arguments, *attributes, needed)
    return output, {name: g for name, g, need in zip(names, found, needed, strict=True) if need}


def attributes_of(case: RoICase) -> tuple[Any, ...]:
    """Return a case's attributes in the order of the schema."""
    if case.operator == "plain":
        return (case.bins, case.scale, case.samples, case.gamma)
    return (case.bins, case.channels, case.group, case.maps, case.samples, case.scale, case.gamma)


def check_forward_backward(run_: Runner, case: RoICase, dtype: torch.dtype = torch.float64) -> None:
    """Assert that output and gradients on `case` agree with the float64 loops."""
    output, gradients = run_(case, case.arguments(dtype), case.upstream(dtype))
    truth, true_gradients = expected(case)
    low, low_gradients = _low_precision(case, dtype)
    assert_within_budget(output, low, truth, f"{case.name} output")
    assert set(gradients) == set(true_gradients), f"{case.name}: gradients for {sorted(gradients)}"
    for name, gradient in gradients.items():
        assert_within_budget(gradient, low_gradients[name], true_gradients[name], f"{case.name} gradient of {name}")


@functools.cache
def _low_precision(case: RoICase, dtype: torch.dtype) -> Result:
    return model_of(case).run(case, case.arguments(dtype), case.upstream(dtype))
