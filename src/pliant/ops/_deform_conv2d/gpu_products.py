# SPDX-License-Identifier: Apache-2.0
"""The matrix products of the backward pass on a GPU, by PyTorch's libraries."""

from __future__ import annotations

import torch
from torch import Tensor

# Whether half-precision matrices can be multiplied into float32, which came after the oldest PyTorch supported.
WIDE_RESULTS = torch.version.hip is None and "dtype" in torch.ops.aten.bmm.overloads()


def rows_of(grad: Tensor, outputs: slice, first: int, count: int) -> Tensor:
    """Return `outputs` of the positions [first, first + count) of a (N, O, Ho, Wo) tensor as (count, outputs)."""
    grad = grad[:, outputs]
    P = grad.shape[2] * grad.shape[3]
    if first % P + count <= P:  # inside one image: a view of a contiguous or channels_last gradient
        return grad[first // P].flatten(1)[:, first % P : first % P + count].T
    images = slice(first // P, (first + count) // P)
    return grad[images].permute(0, 2, 3, 1).reshape(count, -1)


def products(rows: Tensor, weight: Tensor, result: Tensor) -> None:
    """Write rows (T, O) @ weight (groups, O/groups, R) group by group to `result` (T, groups, R)."""
    groups, per_group, _ = weight.shape
    left = rows.reshape(-1, groups, per_group).transpose(0, 1)
    torch.bmm(left, weight, out=result.transpose(0, 1))


def add_products(rows: Tensor, columns: Tensor, total: Tensor) -> None:
    """Add rows (T, O)^T @ columns (T, groups, R) group by group to `total` (groups, O/groups, R) of a wider type."""
    groups, per_group, _ = total.shape
    left = rows.T.reshape(groups, per_group, -1)
    right = columns.transpose(0, 1)
    if rows.dtype == total.dtype:
        total.baddbmm_(left, right)
    elif WIDE_RESULTS and rows.is_cuda:
        total += torch.bmm(left, right, out_dtype=total.dtype)
    else:
        total += torch.bmm(left, right)  # rounds once a chunk
