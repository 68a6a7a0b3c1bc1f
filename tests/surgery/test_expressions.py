# SPDX-License-Identifier: Apache-2.0
"""Regular expressions that choose convolutions: a stranger's may be any, and must not take years."""

from __future__ import annotations

import pytest
from torch import nn

from pliant._check import PliantError
from pliant.surgery.select import select


@pytest.mark.parametrize(
    "where", ["(a+)+$", "(a|a)*b", ".*.*.*.*.*x", "(a|b)" * 17, r"(a)\1", "(?P<a>.)(?P=a)", "(x?){9}", "a?" * 5]
)
def test_an_expression_that_could_take_years_is_refused(where: str) -> None:
    with pytest.raises(PliantError, match="where: must repeat no group, refer to none, and have at most 4 of"):
        select(nn.Sequential(nn.Conv2d(3, 4, 3)), where)


@pytest.mark.parametrize("where", ["(" * 100_000, "a{99999999999}"])
def test_an_expression_that_python_cannot_compile_is_refused(where: str) -> None:
    with pytest.raises(PliantError, match="where: must be a regular expression"):
        select(nn.Sequential(nn.Conv2d(3, 4, 3)), where)


def test_expressions_of_common_use_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    for where in ("^[02]$", "(0|2)", r"^\d+$", "0|2", r"[*+?(|]*[02]"):
        assert len(select(model, where)) == 2
