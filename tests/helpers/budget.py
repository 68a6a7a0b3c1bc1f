# SPDX-License-Identifier: Apache-2.0
"""An error budget in place of a tolerance: twice the error that the same precision costs plain PyTorch, plus a floor.

A tolerance tuned by hand is loose where the problem is small and tight where it is large. The budget follows the
problem: the same computation in plain PyTorch, in the same dtype, is compared with the float64 truth; the code under
test may be twice as far off. The floor is two units of rounding of the largest true value, and the plain computation
must itself be sound, or the budget would be worth nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR_IN_EPS = 2
SOUND_IN_EPS = 16  # measured over all cases, dtypes and gradients: at most 3.2


def assert_within_budget(actual: Tensor, low_precision: Tensor, truth: Tensor, what: str) -> None:
    """Assert that `actual` is as near to `truth` as `low_precision` is, element by element and row by row.

    `actual` and `low_precision` have the dtype under test, `truth` is float64. A row is the last axis of the tensor (a
    single gradient that was never written hides in the norm of the whole tensor, and not in that of its row).
    """
    assert actual.shape == truth.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    assert actual.dtype == low_precision.dtype, f"{what}: dtype {actual.dtype}, expected {low_precision.dtype}"
    assert bool(torch.isfinite(truth).all()), f"{what}: the expected values are not finite; the case is wrong"
    finite = torch.isfinite(actual)
    assert bool(finite.all()), f"{what}: {int((~finite).sum())} of {actual.numel()} values are not finite"
    if actual.numel() == 0:
        return
    unit = torch.finfo(actual.dtype).eps * max(truth.abs().max().item(), 2**-6)
    floor = FLOOR_IN_EPS * unit
    error, allowed = _errors(actual, truth), _errors(low_precision, truth)
    _assert_below(allowed, SOUND_IN_EPS * unit, f"{what}: the yardstick itself")
    _assert_below(error, 2 * allowed.max().item() + floor, f"{what}, element")
    rows, allowed_rows = _row_norms(error), _row_norms(allowed)
    _assert_below(rows, 2 * allowed_rows.max().item() + floor * error.shape[-1] ** 0.5, f"{what}, row")


def _errors(tensor: Tensor, truth: Tensor) -> Tensor:
    error = (tensor.detach().cpu().double() - truth).abs()
    return error.reshape(1) if error.dim() == 0 else error


def _row_norms(error: Tensor) -> Tensor:
    return torch.linalg.vector_norm(error.flatten(0, -2) if error.dim() > 1 else error.unsqueeze(0), dim=-1)


def _assert_below(error: Tensor, budget: float, what: str) -> None:
    worst = error.max().item()
    where = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    share = (error > budget).double().mean().item()
    assert worst <= budget, f"{what}: error {worst:.3g} at {where}, budget {budget:.3g}, {share:.1%} beyond it"
