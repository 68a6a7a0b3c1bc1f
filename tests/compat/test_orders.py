# SPDX-License-Identifier: Apache-2.0
"""The channel orders of other libraries, against loops over group, tap and axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pliant._check import PliantError
from pliant.compat import from_pliant_order, to_pliant_order

KH, KW, G, N, HO, WO = 2, 3, 2, 2, 4, 5
K = KH * KW


def value(n: int, group: int, row: int, column: int, what: str, y: int, x: int) -> float:
    """A number that says where it belongs."""
    return float("".join(map(str, (n + 1, group, row, column, "yxm".index(what), y, x))))


def every() -> list[tuple[int, ...]]:
    return list(np.ndindex(N, G, KH, KW, HO, WO))


def pliants() -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets and masks as `deform_conv2d` takes them."""
    offset, mask = torch.zeros(N, 2 * G * K, HO, WO), torch.zeros(N, G * K, HO, WO)
    for n, g, row, column, y, x in every():
        tap = row * KW + column
        offset[n, g * 2 * K + 2 * tap, y, x] = value(n, g, row, column, "y", y, x)
        offset[n, g * 2 * K + 2 * tap + 1, y, x] = value(n, g, row, column, "x", y, x)
        mask[n, g * K + tap, y, x] = value(n, g, row, column, "m", y, x)
    return offset, mask


def fused() -> torch.Tensor:
    """mmcv, detectron2, DCNv2: all groups' offsets, then all groups' masks."""
    offset, mask = pliants()
    return torch.cat([offset, mask], 1)


def dcnv3() -> tuple[torch.Tensor, torch.Tensor]:
    """(N, H, W, channels), taps column by column, x before y."""
    offset, mask = torch.zeros(N, HO, WO, 2 * G * K), torch.zeros(N, HO, WO, G * K)
    for n, g, row, column, y, x in every():
        tap = column * KH + row
        offset[n, y, x, g * 2 * K + 2 * tap] = value(n, g, row, column, "x", y, x)
        offset[n, y, x, g * 2 * K + 2 * tap + 1] = value(n, g, row, column, "y", y, x)
        mask[n, y, x, g * K + tap] = value(n, g, row, column, "m", y, x)
    return offset, mask


def dcnv4() -> torch.Tensor:
    """DCNv3's taps; each group's 2K offsets, then its K masks; 36 channels filled up to 40."""
    whole = torch.zeros(N, HO, WO, 40)
    offset, mask = dcnv3()
    for g in range(G):
        whole[..., g * 3 * K : g * 3 * K + 2 * K] = offset[..., g * 2 * K : (g + 1) * 2 * K]
        whole[..., g * 3 * K + 2 * K : (g + 1) * 3 * K] = mask[..., g * K : (g + 1) * K]
    return whole


GIVEN: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {
    **dict.fromkeys(("torchvision", "mxnet", "onnx", "openvino"), pliants()),
    **dict.fromkeys(("mmcv", "detectron2", "dcnv2"), (fused(), None)),
    "dcnv3": dcnv3(),
    "dcnv4": (dcnv4(), None),
}


@pytest.mark.parametrize("order", GIVEN)
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_orders_to_pliant_and_back(order: Any, kind: str) -> None:
    given = [t if t is None or kind == "torch" else t.numpy() for t in GIVEN[order]]
    options: dict[str, Any] = {"kernel_size": (KH, KW), "offset_groups": G}
    found = to_pliant_order(order, *given, **options)
    for got, wanted in zip(found, pliants(), strict=True):
        np.testing.assert_array_equal(np.asarray(got), wanted.numpy())
    for got, wanted in zip(from_pliant_order(order, *found, **options), given, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None:
            assert type(got) is type(wanted)
            np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def test_offsets_alone() -> None:
    offset, _ = pliants()
    for order in ("mmcv", "torchvision"):
        got, mask = to_pliant_order(order, offset, kernel_size=(KH, KW), offset_groups=G)
        assert mask is None
        assert torch.equal(got, offset)
    got, mask = from_pliant_order("mmcv", offset, kernel_size=(KH, KW), offset_groups=G)
    assert mask is None
    assert torch.equal(got, offset)


def test_what_does_not_fit_is_refused() -> None:
    offset, mask = pliants()
    with pytest.raises(PliantError, match="order: must be one of torchvision, .*; got 'caffe'; name the library"):
        to_pliant_order("caffe", offset, kernel_size=3)
    with pytest.raises(
        PliantError, match="offset: must have a number of channels of 18 or 27 for mmcv, .*; got 24; check kernel_size"
    ):
        to_pliant_order("mmcv", offset, kernel_size=3)
    with pytest.raises(PliantError, match="mask: must be None for mmcv, which keeps .* in one tensor; got a mask"):
        to_pliant_order("mmcv", offset, mask, kernel_size=(KH, KW), offset_groups=G)
    with pytest.raises(PliantError, match="mask: must have 12 channels; got 24"):
        to_pliant_order("torchvision", offset, offset, kernel_size=(KH, KW), offset_groups=G)
    with pytest.raises(PliantError, match="offset_groups: must be at least 1; got 0"):
        to_pliant_order("mmcv", offset, kernel_size=3, offset_groups=0)
