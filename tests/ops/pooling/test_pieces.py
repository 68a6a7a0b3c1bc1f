# SPDX-License-Identifier: Apache-2.0
"""How the CPU kernels of RoI pooling cut their work: planes or transposed images, channel slices, boxes, threads."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from helpers.pooling.cases import BY_NAME, CASES, RoICase
from helpers.pooling.checks import check_forward_backward, run
from pliant.ops import _backends, deform_ps_roi_pool

pytestmark = pytest.mark.skipif(_backends.native_library() is None, reason="no native library")
native = functools.partial(run, impl="native")
Cut = Callable[..., None]
MANY = 1 << 40


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Return a function that sets the sizes of the pieces."""
    from pliant.ops._pooling import cpu_pooling

    def set_sizes(**sizes: int) -> None:
        for name, size in sizes.items():
            monkeypatch.setattr(cpu_pooling, name, size)

    return set_sizes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pixels_per_bin", [0, MANY], ids=["planes", "transposed"])
def test_planes_and_transposed_images(cut: Cut, pixels_per_bin: int, case: RoICase) -> None:
    """Every contiguous image, then none, has too few bins to be transposed."""
    cut(PIXELS_PER_BIN=pixels_per_bin)
    check_forward_backward(native, case, torch.bfloat16 if case.channels > 3 else torch.float64)


@pytest.mark.parametrize("case", [c for c in CASES if c.layout == "contiguous"])
def test_slices_of_channels_and_runs_of_boxes(cut: Cut, case: RoICase) -> None:
    """Images in slices of one channel, whose sums fit memory for one box: every case crosses many borders of both."""
    cut(PIXELS_PER_BIN=MANY, IMAGE_BYTES=1, PRODUCT_BYTES=1)
    check_forward_backward(native, case)


@pytest.mark.parametrize("pixels_per_bin", [0, MANY], ids=["planes", "transposed"])
@pytest.mark.parametrize("name", ["asymmetric", "ps_asymmetric", "channels_last", "ps_channels_last"])
def test_same_bits_for_any_number_of_threads(cut: Cut, pixels_per_bin: int, name: str) -> None:
    """Without being asked to be deterministic, with channels enough that each thread has some."""
    cut(PIXELS_PER_BIN=pixels_per_bin)
    case = RoICase(**{**vars(BY_NAME[name]), "name": f"{name}_wide", "channels": 198})
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        output, gradients = native(case, case.arguments(torch.float32), case.upstream(torch.float32))
        results.append([output, *gradients.values()])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_samples_stand_where_the_plain_operations_put_them() -> None:
    """In float32, 7 * (5 / 14) is 2.5, and 7 * (17 / 14) is 8.5, but both are more if rounded once with what is added.

    The sample of row or column 7 so stands on pixel 0, where the position-sensitive operator's slope is 0.
    """
    image = torch.randn(1, 3, 12, 9)
    boxes = torch.tensor([[0.0, -2, -8, 2, 8]])
    offset = torch.zeros(1, 2, 14, 14, requires_grad=True)
    y = deform_ps_roi_pool(image, boxes, 14, 3, offset, samples_per_bin=1, impl="native")
    (gradient,) = torch.autograd.grad(y.square().sum(), offset)
    assert gradient[0, 0, 8:, 8].all()
    assert not gradient[0, 0, :, 7].any()
    assert gradient[0, 1, 8, 8:].all()
    assert not gradient[0, 1, 7].any()
