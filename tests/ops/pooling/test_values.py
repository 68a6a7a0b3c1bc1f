# SPDX-License-Identifier: Apache-2.0
"""Output and gradients of RoI pooling, by every implementation, on every case, against the float64 loops."""

from __future__ import annotations

import pytest
import torch

from helpers.pooling.cases import CASES, RoICase
from helpers.pooling.checks import check_forward_backward, require, runner
from helpers.pooling.plain import model_of

DTYPES = {
    "reference": (torch.float64, torch.bfloat16),
    "closed_form": (torch.float32, torch.float16),
    "native": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("impl", "dtype"), [(impl, dtype) for impl, dtypes in DTYPES.items() for dtype in dtypes])
def test_output_and_gradients_match_the_loops(impl: str, case: RoICase, dtype: torch.dtype) -> None:
    check_forward_backward(runner(require(impl)), case, dtype)


@pytest.mark.parametrize("case", CASES)
def test_the_model_that_mutants_are_made_of_is_right(case: RoICase) -> None:
    check_forward_backward(lambda c, a, u: model_of(c).run(c, a, u), case)
