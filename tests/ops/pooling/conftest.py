# SPDX-License-Identifier: Apache-2.0
"""The implementations of RoI pooling, by name."""

from __future__ import annotations

import pytest

from helpers.pooling.checks import require


@pytest.fixture(params=["reference", "closed_form", "native"])
def roi_impl(request: pytest.FixtureRequest) -> str:
    """Each implementation in turn, and the functions of devices without kernels."""
    return require(request.param)


@pytest.fixture(params=["reference", "native"])
def roi_public(request: pytest.FixtureRequest) -> str:
    """Each value of `impl` that the public functions take on a CPU, but "auto"."""
    return require(request.param)
