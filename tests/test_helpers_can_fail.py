# SPDX-License-Identifier: Apache-2.0
"""The checkers are checked: each rejects what it must, and every wrong deformable convolution is caught."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from helpers.budget import assert_within_budget
from helpers.canary import BAND, guarded_memory
from helpers.convolution.cases import BY_NAME, CASES, Case, expected
from helpers.convolution.checks import check_forward_backward
from helpers.convolution.forward_mutants import ChannelTailDropped
from helpers.convolution.mutants import FORWARD_MUTANTS, GRADIENT_MUTANTS, MUTANTS
from helpers.convolution.plain import PlainDeformConv2d
from oracles import deform_conv2d_loops as oracle

# The cases that between them notice every mutant; all cases do, these are quicker.
QUICK = [
    BY_NAME[name]
    for name in ("asymmetric", "groups_4_offset_groups_6", "wide_image", "tiles_of_images", "far", "channels_21_to_13")
]


def is_caught(mutant: PlainDeformConv2d, case: Case, dtype: torch.dtype) -> bool:
    try:
        check_forward_backward(mutant, case, dtype)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_mutant_is_caught(mutant: type[PlainDeformConv2d], dtype: torch.dtype) -> None:
    assert any(is_caught(mutant(), case, dtype) for case in QUICK)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_original_of_the_mutants_is_right(dtype: torch.dtype) -> None:
    for case in CASES:
        check_forward_backward(PlainDeformConv2d(), case, dtype)


def test_mutants_are_many_and_differ_from_the_original() -> None:
    assert len(FORWARD_MUTANTS) >= 24
    assert len(GRADIENT_MUTANTS) >= 12
    for mutant in MUTANTS:
        replaced = [n for n in vars(mutant) if n in vars(PlainDeformConv2d) and not n.startswith("__")]
        assert replaced, mutant.__name__


@pytest.mark.parametrize("mutant", GRADIENT_MUTANTS, ids=lambda m: m.__name__)
def test_gradient_mutants_have_the_right_output(mutant: type[PlainDeformConv2d]) -> None:
    """Otherwise it would be the output that gave them away."""
    for name in ("asymmetric", "far"):
        output = mutant()(*BY_NAME[name].arguments())
        torch.testing.assert_close(output, expected(BY_NAME[name]).output, rtol=1e-12, atol=1e-12)


def test_a_square_case_would_not_notice_swapped_axes() -> None:
    """Why the cases look as they do: on a friendly input a third of the forward mutants pass."""
    friendly = Case("friendly", 1, 1, (5, 5), 1, (3, 3), padding=(1, 1), offsets="zero", modulated=False, bias=False)
    unnoticed = [m.__name__ for m in FORWARD_MUTANTS if not is_caught(m(), friendly, torch.float64)]
    assert len(unnoticed) >= len(FORWARD_MUTANTS) // 3
    assert "SwappedStride" in unnoticed


# -- budget ------------------------------------------------------------------------------------------------------------

TRUTH = torch.linspace(-3, 4, 35, dtype=torch.float64).view(5, 7)
LOW = TRUTH.bfloat16()


def test_budget_accepts_what_is_as_good_as_plain_pytorch() -> None:
    assert_within_budget(LOW.clone(), LOW, TRUTH, "x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t[3, 2].fill_(math.nan), r"x: 1 of 35 values are not finite"),
        (lambda t: t[3, 2].fill_(math.inf), r"x: 1 of 35 values are not finite"),
        (lambda t: t[3, 2].add_(0.2), r"x, element: error 0\.2\d* at \(3, 2\), budget 0\.0\d+, 2\.9% beyond it"),
        (lambda t: t[1].zero_(), r"x, element: error 1\.\d+ at \(1, 0\)"),
        (lambda t: t.neg_(), r"x, element: error [78]\.?\d* at \(4, 6\)"),
    ],
)
def test_budget_rejects(spoil: object, message: str) -> None:
    wrong = LOW.clone()
    spoil(wrong)  # type: ignore[operator]
    with pytest.raises(AssertionError, match=message):
        assert_within_budget(wrong, LOW, TRUTH, "x")


def test_budget_rejects_an_error_spread_thinly_over_a_row() -> None:
    """Each element is within its budget, and the row as a whole is not."""
    truth = torch.ones(4, 4096, dtype=torch.float64)
    low = truth.bfloat16()
    low[0, 0] += 0.02  # one rounding error of the yardstick sets the budget of an element
    actual = truth.bfloat16()
    actual[2] += 0.03
    with pytest.raises(AssertionError, match=r"x, row: error .* at \(2,\)"):
        assert_within_budget(actual, low, truth, "x")


def test_budget_rejects_a_useless_yardstick_and_other_shapes() -> None:
    with pytest.raises(AssertionError, match="the yardstick itself"):
        assert_within_budget(LOW.clone(), LOW + 1, TRUTH, "x")
    with pytest.raises(AssertionError, match=r"x: shape \(7, 5\), expected \(5, 7\)"):
        assert_within_budget(LOW.T, LOW, TRUTH, "x")
    with pytest.raises(AssertionError, match=r"x: dtype torch.float32, expected torch.bfloat16"):
        assert_within_budget(LOW.float(), LOW, TRUTH, "x")
    with pytest.raises(AssertionError, match="the case is wrong"):
        assert_within_budget(LOW, LOW, TRUTH / 0, "x")


# -- canary ------------------------------------------------------------------------------------------------------------


def test_guarded_memory_is_nan_until_it_is_written() -> None:
    with guarded_memory() as guard:
        made = (torch.empty(2, 3), torch.empty_like(TRUTH), TRUTH.new_empty(4), torch.empty_strided((2, 2), (1, 2)))
        last = torch.empty(2, 3, 4, 5, memory_format=torch.channels_last, dtype=torch.bfloat16)
    assert all(bool(t.isnan().all()) for t in (*made, last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    guard.assert_whole()
    assert not hasattr(torch.empty, "__wrapped__")


@pytest.mark.parametrize(("index", "place"), [(-1, "before"), (6, "after"), (BAND // 4 + 5, "after")])
def test_guarded_memory_sees_a_stray_store(index: int, place: str) -> None:
    with guarded_memory() as guard:
        tensor = torch.empty(6)
    tensor.as_strided((1,), (1,), tensor.storage_offset() + index).fill_(1.0)
    with pytest.raises(AssertionError, match=f"4 bytes were written {place} a tensor of 24 bytes"):
        guard.assert_whole()


def test_guarded_memory_that_guards_nothing_is_an_error() -> None:
    with guarded_memory() as guard:
        torch.zeros(3)
    with pytest.raises(AssertionError, match="the guard saw nothing"):
        guard.assert_whole()


# -- oracle ------------------------------------------------------------------------------------------------------------


def test_hat_and_its_slope_from_the_right() -> None:
    pixels = np.arange(3.0)
    assert oracle.hat(pixels, 0.25).tolist() == [0.75, 0.25, 0.0]
    assert oracle.hat(pixels, -1.0).tolist() == [0.0, 0.0, 0.0]
    assert oracle.hat_right_slope(pixels, -1.0).tolist() == [1.0, 0.0, 0.0]
    assert oracle.hat_right_slope(pixels, -1.01).tolist() == [0.0, 0.0, 0.0]
    assert oracle.hat_right_slope(pixels, 0.0).tolist() == [-1.0, 1.0, 0.0]
    assert oracle.hat_right_slope(pixels, 2.0).tolist() == [0.0, 0.0, -1.0]
    assert oracle.hat_right_slope(pixels, 3.0).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "h_and_value", [(-0.5, 5), (0, 10), (1.5, 25), (2, 30), (2.5, 15), (2.75, 7.5), (3, 0), (-1, 0)]
)
def test_oracle_on_the_column_of_three(h_and_value: tuple[float, float]) -> None:
    h, value = h_and_value
    column, one = np.array([10.0, 20.0, 30.0]).reshape(1, 1, 3, 1), np.ones((1, 1, 1, 1))
    offset = np.zeros((1, 2, 3, 1))
    offset[0, 0, 0] = h
    found = oracle.forward(column, offset, one, None, (1, 1), (0, 0), (1, 1), None)
    assert found.flatten().tolist() == [value, 20, 30]


@pytest.mark.parametrize("name", ["asymmetric_v1", "depthwise_multiplier", "wide_steps"])
def test_oracle_gradients_are_the_slopes_of_its_output(name: str) -> None:
    """Steps to the right of each argument, since that is the side on which slopes at kinks are defined."""
    case, step = BY_NAME[name], 2.0**-20
    arguments = [oracle.as_float64(a) if isinstance(a, torch.Tensor) or a is None else a for a in case.arguments()]
    grad = oracle.as_float64(case.upstream())
    assert grad is not None
    generator = np.random.default_rng(5)
    names = ("input", "offset", "weight", "bias", None, None, None, "mask")
    for place, argument in enumerate(names):
        if argument is None or arguments[place] is None:
            continue
        analytic = expected(case).gradients[argument].numpy()
        for index in generator.permutation(analytic.size)[:6]:
            moved = list(arguments)
            moved[place] = arguments[place].copy()
            moved[place].flat[index] += step
            slope = ((oracle.forward(*moved) - oracle.forward(*arguments)) * grad).sum() / step
            assert slope == pytest.approx(analytic.flat[index], rel=1e-4, abs=1e-4), f"{argument}[{index}]"


def test_torchvision_agrees_with_the_oracle_where_it_is_right() -> None:
    """A third opinion, on every case whose offsets are numbers (torchvision's CPU kernel dies of NaN)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional image codecs
        ops = pytest.importorskip("torchvision.ops")

    finite = [case for case in CASES if case.offsets != "far"]
    assert len(finite) > 25
    for case in finite:
        check_forward_backward(ops.deform_conv2d, case)


def test_dropping_channels_is_seen_by_every_odd_channel_count() -> None:
    odd = [case for case in CASES if case.channels > 8 and case.channels % 8]
    assert len(odd) >= 4
    assert all(is_caught(ChannelTailDropped(), case, torch.bfloat16) for case in odd)
