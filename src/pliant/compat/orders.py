# SPDX-License-Identifier: Apache-2.0
"""In which channel each library keeps which offset and which mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from pliant._check import counted, fail
from pliant._geometry import pair

Order = Literal["torchvision", "mxnet", "onnx", "openvino", "mmcv", "detectron2", "dcnv2", "dcnv3", "dcnv4"]
Array = TypeVar("Array", Tensor, "np.ndarray[Any, Any]")
APART = ("torchvision", "mxnet", "onnx", "openvino", "dcnv3")  # offsets and masks are two tensors
CHANNELS_LAST = ("dcnv3", "dcnv4")
MULTIPLE = 8  # DCNv4 fills its channels up to a multiple of this


def offset_order(order: Order, kernel_size: int | Sequence[int], offset_groups: int = 1) -> list[int]:
    """Return for each of pliant's 2*G*K offset channels the channel in which another library keeps it.

    pliant's are ordered group, tap (row-major), (dy, dx), as torchvision's, MXNet's, ONNX's and OpenVINO's. mmcv,
    detectron2 and DCNv2 put all masks after all offsets in one tensor. DCNv3 and DCNv4 have taps column by column
    and (dx, dy), and DCNv4 the masks of a group after its offsets. Weights of the layer that predicts them are put in
    order by the same numbers: `weight[offset_order(...)]`.

    Args:
        order: the other library.
        kernel_size: taps, an integer or (kh, kw).
        offset_groups: G.

    Example:
        >>> offset_order("dcnv3", (2, 2))  # dy of taps 0, 1, 2, 3 in channels 1, 5, 3, 7
        [1, 0, 5, 4, 3, 2, 7, 6]
    """
    taps, groups = _taps(order, kernel_size), _groups(offset_groups)
    K = len(taps)
    if order not in CHANNELS_LAST:
        return list(range(2 * groups * K))
    block = 3 * K if order == "dcnv4" else 2 * K
    return [g * block + 2 * tap + axis for g in range(groups) for tap in taps for axis in (1, 0)]


def mask_order(order: Order, kernel_size: int | Sequence[int], offset_groups: int = 1) -> list[int]:
    """Return for each of pliant's G*K mask channels the channel in which another library keeps it.

    It is a channel of the one tensor that holds offsets too (mmcv, detectron2, DCNv2, DCNv4), or of the tensor of
    masks. Arguments are those of `offset_order`.

    Example:
        >>> mask_order("mmcv", (1, 2), offset_groups=2)
        [8, 9, 10, 11]
    """
    taps, groups = _taps(order, kernel_size), _groups(offset_groups)
    K = len(taps)
    if order == "dcnv4":
        return [g * 3 * K + 2 * K + tap for g in range(groups) for tap in taps]
    first = 0 if order in APART else 2 * groups * K
    return [first + g * K + tap for g in range(groups) for tap in taps]


def to_pliant_order(
    order: Order,
    offset: Array,
    mask: Array | None = None,
    *,
    kernel_size: int | Sequence[int],
    offset_groups: int = 1,
) -> tuple[Array, Array | None]:
    """Return offsets (N, 2*G*K, Ho, Wo) and masks (N, G*K, Ho, Wo) as `pliant.ops.deform_conv2d` takes them.

    No activation is applied: mmcv's and detectron2's masks still need their sigmoid.

    Args:
        order: the library that `offset` and `mask` come from.
        offset: its offsets, or the one tensor that holds both; (N, Ho, Wo, channels) for DCNv3 and DCNv4, else
            (N, channels, Ho, Wo). A torch tensor or a numpy array.
        mask: its masks, where they are apart.
        kernel_size: taps, an integer or (kh, kw).
        offset_groups: G.

    Raises:
        PliantError: the channels do not fit, or `mask` is given for a library that has one tensor.

    Example:
        >>> import torch
        >>> fused = torch.arange(27.0).view(1, 27, 1, 1)
        >>> offset, mask = to_pliant_order("mmcv", fused, kernel_size=3)
        >>> offset.shape[1], mask.flatten().tolist()[:2]
        (18, [18.0, 19.0])
    """
    _check_channels(order, offset, mask, kernel_size, offset_groups)
    offsets = offset_order(order, kernel_size, offset_groups)
    masks = mask_order(order, kernel_size, offset_groups)
    if order in APART:
        return _picked(order, offset, offsets), None if mask is None else _picked(order, mask, masks)
    only_offsets = offset.shape[_axis(order)] == len(offsets)
    return _picked(order, offset, offsets), None if only_offsets else _picked(order, offset, masks)


def from_pliant_order(
    order: Order,
    offset: Array,
    mask: Array | None = None,
    *,
    kernel_size: int | Sequence[int],
    offset_groups: int = 1,
) -> tuple[Array, Array | None]:
    """Return pliant's offsets and masks as another library keeps them: the inverse of `to_pliant_order`.

    Where it keeps both in one tensor, that is the first result, and the second is None. The channels that DCNv4 adds
    to fill up are zero.

    Args:
        order: the other library.
        offset: (N, 2*G*K, Ho, Wo), a torch tensor or a numpy array.
        mask: (N, G*K, Ho, Wo), or None.
        kernel_size: taps, an integer or (kh, kw).
        offset_groups: G.

    Example:
        >>> import torch
        >>> offset, mask = torch.rand(1, 18, 4, 5), torch.rand(1, 9, 4, 5)
        >>> from_pliant_order("dcnv4", offset, mask, kernel_size=3)[0].shape
        torch.Size([1, 4, 5, 32])
    """
    offsets = offset_order(order, kernel_size, offset_groups)
    masks = mask_order(order, kernel_size, offset_groups)
    _check_channels("torchvision", offset, mask, kernel_size, offset_groups)
    if order in APART:
        return _placed(order, [(offset, offsets)]), None if mask is None else _placed(order, [(mask, masks)])
    parts = [(offset, offsets)] if mask is None else [(offset, offsets), (mask, masks)]
    return _placed(order, parts), None


def _taps(order: Order, kernel_size: int | Sequence[int]) -> list[int]:
    """Return the number of each of pliant's taps in the other library."""
    if order not in get_args(Order):
        fail("order", f"must be one of {', '.join(get_args(Order))}", repr(order), "name the library")
    kh, kw = pair("kernel_size", kernel_size, minimum=1)
    by_columns = order in CHANNELS_LAST
    return [column * kh + row if by_columns else row * kw + column for row in range(kh) for column in range(kw)]


def _groups(offset_groups: int) -> int:
    if offset_groups < 1:
        fail("offset_groups", "must be at least 1", offset_groups, "use 1 or more")
    return offset_groups


def _axis(order: Order) -> int:
    return -1 if order in CHANNELS_LAST else -3


def _check_channels(order: Order, offset: Any, mask: Any, kernel_size: Any, offset_groups: int) -> None:
    samples = len(_taps(order, kernel_size)) * _groups(offset_groups)
    both = 3 * samples if order != "dcnv4" else -(-3 * samples // MULTIPLE) * MULTIPLE
    allowed = [2 * samples] if order in APART else [both] if order == "dcnv4" else [2 * samples, both]
    channels = offset.shape[_axis(order)]
    if channels not in allowed:
        rule = (
            f"must have a number of channels of {' or '.join(map(str, allowed))} for {order}, this kernel and "
            f"{counted(offset_groups, 'group')}"
        )
        fail("offset", rule, channels, "check kernel_size and offset_groups")
    if mask is not None and order not in APART:
        fail("mask", f"must be None for {order}, which keeps offsets and masks in one tensor", "a mask", "leave it out")
    if mask is not None and mask.shape[_axis(order)] != samples:
        found = int(mask.shape[_axis(order)])
        fail("mask", f"must have {counted(samples, 'channel')}", found, "check kernel_size and offset_groups")


def _picked(order: Order, array: Array, channels: Sequence[int]) -> Array:
    if isinstance(array, np.ndarray):
        picked: Array = np.take(array, channels, axis=_axis(order))
        return np.moveaxis(picked, -1, -3) if order in CHANNELS_LAST else picked
    chosen = array.index_select(_axis(order), torch.as_tensor(channels, device=array.device))
    return chosen.movedim(-1, -3) if order in CHANNELS_LAST else chosen


def _placed(order: Order, parts: Sequence[tuple[Array, Sequence[int]]]) -> Array:
    """Return one array with the channels of the parts where the other library has them."""
    total = sum(len(channels) for _, channels in parts)
    total = -(-total // MULTIPLE) * MULTIPLE if order == "dcnv4" else total
    first: Any = parts[0][0]
    shape = (*first.shape[:-3], total, *first.shape[-2:])
    of_numpy = isinstance(first, np.ndarray)
    whole: Any = np.zeros(shape, first.dtype) if of_numpy else first.new_zeros(shape)
    for array, channels in parts:
        whole[..., list(channels), :, :] = array
    if order in CHANNELS_LAST:
        whole = np.moveaxis(whole, -3, -1) if of_numpy else whole.movedim(-3, -1)
    placed: Array = whole
    return placed
