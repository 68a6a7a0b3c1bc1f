# SPDX-License-Identifier: Apache-2.0
"""The implementations of RoI pooling, by name."""

from __future__ import annotations

import pytest

from pliant.ops import _backends


def require(impl: str) -> str:
    """Return `impl`; skip the test where this installation cannot run it."""
    if impl == "native" and _backends.native_library() is None:
        pytest.skip(f"no native library: {_backends.why_no_native()}")
    return impl


@pytest.fixture(params=["reference", "closed_form", "native"])
def roi_impl(request: pytest.FixtureRequest) -> str:
    """Each implementation in turn, and the functions that serve devices without kernels."""
    return require(request.param)


@pytest.fixture(params=["reference", "native"])
def roi_public(request: pytest.FixtureRequest) -> str:
    """Each value of `impl` that the public functions take on a CPU, but "auto"."""
    return require(request.param)
