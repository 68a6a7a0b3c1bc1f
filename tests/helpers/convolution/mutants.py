# SPDX-License-Identifier: Apache-2.0
"""All wrong deformable convolutions: what the tests have to notice.

Each is a bug that a published implementation had, or that is one slip of the hand away. `test_helpers_can_fail.py` runs
them through the check that the real implementations pass, and asserts that none of them does.
"""

from __future__ import annotations

from types import ModuleType

from helpers.convolution import forward_mutants, gradient_mutants
from helpers.convolution.plain import PlainDeformConv2d


def _defined_in(module: ModuleType) -> list[type[PlainDeformConv2d]]:
    return [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]


FORWARD_MUTANTS = _defined_in(forward_mutants)
GRADIENT_MUTANTS = _defined_in(gradient_mutants)
MUTANTS = (*FORWARD_MUTANTS, *GRADIENT_MUTANTS)
