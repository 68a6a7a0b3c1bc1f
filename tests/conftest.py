# SPDX-License-Identifier: Apache-2.0
"""Seeds, expected warnings, and the implementations that the tests of the operators run through."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from helpers.convolution.checks import Implementation
from pliant.ops import _backends, deform_conv2d

LONGEST = ("gpu", "train", "convolution", "export", "cli")


def pytest_configure(config: pytest.Config) -> None:
    """Expect the reference's warning where nothing was compiled; elsewhere it is an error, as all warnings are.

    `test_imports.py` checks that it comes, and once.
    """
    if _backends.native_library() is None:
        config.addinivalue_line("filterwarnings", "ignore:pliant.ops.* runs its slow reference implementation on cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders first whose files take longest, so that no process is left with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.parts[-2]) if item.path.parts[-2] in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20170317)


def implementation_called(name: str) -> Implementation:
    """Return `deform_conv2d` with `impl=name`; skip the test where this installation cannot run it."""
    if name == "native" and _backends.native_library() is None:
        pytest.skip(f"no native library: {_backends.why_no_native()}")
    return functools.partial(deform_conv2d, impl=name)


@pytest.fixture(params=["reference", "native"])
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    return implementation_called(request.param)


@pytest.fixture
def native() -> Implementation:
    """The native implementation."""
    return implementation_called("native")


@pytest.fixture
def reference() -> Implementation:
    """The readable implementation."""
    return implementation_called("reference")


@pytest.fixture(params=[1, 2], ids=["1_thread", "2_threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread and two, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """`torch.use_deterministic_algorithms(True)` for one test; PyTorch then also fills fresh memory with NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Name dtypes and cases as people do: `bfloat16`, `asymmetric`."""
    if isinstance(val, torch.dtype):
        return str(val).removeprefix("torch.")
    return getattr(val, "name", None)
