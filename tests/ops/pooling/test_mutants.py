# SPDX-License-Identifier: Apache-2.0
"""The check of RoI pooling notices every wrong one."""

from __future__ import annotations

import pytest

from helpers.pooling.cases import CASES, RoICase
from helpers.pooling.checks import check_forward_backward
from helpers.pooling.mutants import MUTANTS
from helpers.pooling.plain import PlainPSRoIPool, PlainRoIPool


def is_caught(mutant: type[PlainRoIPool], case: RoICase) -> bool:
    """Say whether the check fails on `case`."""
    try:
        check_forward_backward(lambda c, a, u: mutant(c).run(c, a, u), case)
    except AssertionError as error:
        return "yardstick" not in str(error)
    return False


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_mutant_is_caught(mutant: type[PlainRoIPool]) -> None:
    operator = "ps" if issubclass(mutant, PlainPSRoIPool) else "plain"
    assert any(is_caught(mutant, case) for case in CASES if case.operator == operator)


def test_there_are_mutants_of_both_operators() -> None:
    assert sum(issubclass(m, PlainPSRoIPool) for m in MUTANTS) >= 12
    assert sum(not issubclass(m, PlainPSRoIPool) for m in MUTANTS) >= 24


def test_a_mutant_that_is_right_is_not_caught() -> None:
    class Right(PlainRoIPool):
        pass

    assert not any(is_caught(Right, case) for case in CASES if case.operator == "plain")
