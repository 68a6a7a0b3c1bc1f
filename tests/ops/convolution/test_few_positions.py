# SPDX-License-Identifier: Apache-2.0
"""Fewer positions than outputs, where weights are packed a piece at a time while they are multiplied."""

from __future__ import annotations

import pytest
import torch

from helpers.convolution.cases import Case
from helpers.convolution.checks import Implementation, check_forward_backward
from pliant.ops._deform_conv2d import cpu_native, cpu_products

# More outputs than a panel has, and no whole number of panels; channels in no whole vectors, and in several pieces.
FEW = [
    Case("few", 1, 21, (3, 5), 70, (3, 2), padding=(1, 1), offset_groups=3),
    Case("few_channels_last", 2, 19, (4, 3), 75, (3, 3), (2, 1), (1, 1), layout="channels_last"),
    Case("few_of_groups", 3, 12, (2, 3), 126, (2, 3), padding=(1, 1), groups=3, offsets="edges"),
    Case("few_in_pieces", 1, 600, (2, 2), 9, (1, 2), padding=(0, 1), layout="channels_last", offsets="far"),
    Case("few_of_one_tap", 1, 35, (3, 3), 40, (1, 1), modulated=False, bias=False),
]


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values(
    native: Implementation, monkeypatch: pytest.MonkeyPatch, threads: int, case: Case, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(cpu_products, "has_bfloat16_products", lambda: False)
    taken = []
    convolve = cpu_native._convolve_few
    monkeypatch.setattr(cpu_native, "_convolve_few", lambda *arguments: taken.append(convolve(*arguments)))
    check_forward_backward(native, case, dtype)
    assert taken, "the path under test was not taken"


def test_columns_that_fill_more_than_a_cache_are_not_kept(
    native: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits with and without; 31 positions and 16 more, of 9 * 16 columns, are 27,072 bytes."""
    x, offset, weight = torch.randn(1, 16, 1, 31), torch.randn(1, 18, 1, 31), torch.randn(32, 16, 3, 3)
    found = native(x, offset, weight, None, (1, 1), (1, 1), (1, 1), None)
    taken = []
    convolve = cpu_native._convolve_few
    monkeypatch.setattr(cpu_native, "_convolve_few", lambda *arguments: taken.append(convolve(*arguments)))
    for most, is_taken in ((27_072, True), (27_071, False)):
        monkeypatch.setattr(cpu_native, "COLUMN_BYTES", most)
        taken.clear()
        assert torch.equal(native(x, offset, weight, None, (1, 1), (1, 1), (1, 1), None), found)
        assert bool(taken) == is_taken
