# SPDX-License-Identifier: Apache-2.0
"""The matrix products of the CPU backward pass, by whichever of PyTorch's libraries is fastest at them here.

On processors with AVX-512 oneDNN is (a 1x1 convolution over the columns), since MKL falls back to AVX2 on those that
are not Intel's; elsewhere the two are equal and `torch.mm` writes into place. Under deterministic algorithms one thread
multiplies, because both libraries may divide a sum differently for another number of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import conv2d


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Multiply on one thread inside this context where deterministic algorithms are asked for."""
    threads = torch.get_num_threads()
    if not torch.are_deterministic_algorithms_enabled() or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _prefers_onednn(dtype: torch.dtype) -> bool:
    if not torch._C._get_mkldnn_enabled() or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _as_image(rows: Tensor) -> Tensor:
    """View (T, X) rows as a channels_last image (1, X, 1, T)."""
    return rows.view(1, rows.shape[0], 1, rows.shape[1]).permute(0, 3, 1, 2)


def multiply_transposed(grad: Tensor, weight: Tensor, columns: Tensor) -> None:
    """Set `columns` (T, groups*R) to grad (T, O) @ weight (groups, O/groups, R)."""
    groups, per_group, R = weight.shape
    if groups > 1:
        product = torch.bmm(grad.reshape(-1, groups, per_group).transpose(0, 1), weight)
        columns.view(-1, groups, R).copy_(product.transpose(0, 1))
    elif _prefers_onednn(columns.dtype):
        transposed = weight[0].T.contiguous().view(R, per_group, 1, 1)
        columns.copy_(conv2d(_as_image(grad.contiguous()), transposed).permute(0, 2, 3, 1).reshape(-1, R))
    else:
        torch.mm(grad, weight[0], out=columns)


def add_outer(grad: Tensor, columns: Tensor, grad_weight: Tensor) -> None:
    """Add grad (T, O)^T @ columns (T, groups*R) to `grad_weight` (groups, O/groups, R)."""
    groups, per_group, R = grad_weight.shape
    if groups > 1:
        left = grad.reshape(-1, groups, per_group).permute(1, 2, 0)
        grad_weight.baddbmm_(left, columns.view(-1, groups, R).transpose(0, 1))
    elif _prefers_onednn(columns.dtype):
        shape = grad_weight.view(per_group, R, 1, 1)
        image, u = _as_image(columns), _as_image(grad.contiguous())
        only_weight = [False, True, False]
        gradients = torch.ops.aten.convolution_backward(
            u, image, shape, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, only_weight
        )
        grad_weight.add_(gradients[1].reshape(1, per_group, R))
    else:
        grad_weight[0].addmm_(grad.T, columns)
