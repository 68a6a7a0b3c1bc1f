# SPDX-License-Identifier: Apache-2.0
"""A short, seeded run of the random calls of the operators; `make fuzz` goes on for ever, under the sanitizers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from helpers.fuzz import operator_calls, operators
from helpers.fuzz.operator_calls import WrongResultError, draw_call, upstream
from pliant.ops import instruction_sets

CALLS = 250

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="no compiled library")


def test_random_calls_agree_and_are_finite() -> None:
    cases = sum(operators.run_cases(seed) for seed in range(CALLS))
    assert cases >= CALLS * len(instruction_sets()) * (1 + operators.SUBSETS)


@pytest.mark.parametrize("seed", [6016543, 6024534, 6033058, 6033400])
def test_calls_whose_gradient_was_not_finite(seed: int) -> None:
    """Of the third one the exact gradient is 0; of the others it is too large for its type."""
    assert operators.run_cases(seed)


def test_an_infinity_is_right_where_the_exact_gradient_is_too_large() -> None:
    call = draw_call(6033400)
    right = call.gradients(upstream(6033400, call.operator(**call.tensors)), ["offset"])["offset"]
    operators._check_infinities("offset", right, call, 6033400)
    assert bool((right == -math.inf).any())
    for wrong in (right.abs(), torch.where(right.isfinite(), math.inf, right), right.nan_to_num(0, 0, math.nan)):
        with pytest.raises(WrongResultError, match="offset is not finite"):
            operators._check_infinities("offset", wrong, call, 6033400)


def test_a_number_draws_the_same_call_again() -> None:
    for seed in (3, 17):
        one, two = draw_call(seed), draw_call(seed)
        assert one.description == two.description
        assert all(torch.equal(t.nan_to_num(), two.tensors[n].nan_to_num()) for n, t in one.tensors.items())
        output = one.operator(**one.tensors)
        assert torch.equal(upstream(seed, output), upstream(seed, output))


def test_the_calls_are_of_every_kind() -> None:
    calls = [draw_call(seed) for seed in range(400)]
    kinds = Counter(call.description.split(" ")[0] for call in calls)
    assert min(kinds[name] for name in ("deform_conv2d", "deform_roi_pool", "deform_ps_roi_pool")) > 60
    assert {call.tensors["input"].dtype for call in calls} == set(operator_calls.DTYPES)
    layouts = Counter()
    for call in calls:
        x = call.tensors["input"]
        contiguous, last = x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)
        layouts["expanded" if 0 in x.stride() else "dense" if contiguous else "last" if last else "gaps"] += 1
    assert min(layouts[name] for name in ("expanded", "dense", "last", "gaps")) > 20
    assert sum(not bool(call.tensors.get("offset", torch.zeros(1)).isfinite().all()) for call in calls) > 30
    assert sum(0 in t.shape for call in calls for t in call.tensors.values()) > 20


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.flatten()[-1:].fill_(math.nan), "output is not finite"),
        (lambda t: t.flatten()[-1:].add_(100), "output of .* differ by"),
    ],
)
def test_a_wrong_result_is_found(spoil: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One element of one call in three is wrong."""
    count = 0
    original = operator_calls.deform_conv2d

    def wrong(*arguments: Tensor, **options: object) -> Tensor:
        nonlocal count
        output = original(*arguments, **options)  # type: ignore[arg-type]
        count += 1
        if count % 3 == 0 and output.numel():
            output = output.contiguous()
            spoil(output)  # type: ignore[operator]
        return output

    wrong.__name__ = "deform_conv2d"
    monkeypatch.setattr(operator_calls, "deform_conv2d", wrong)
    with pytest.raises(WrongResultError, match=message):
        sum(operators.run_cases(seed) for seed in range(60))
