# SPDX-License-Identifier: Apache-2.0
"""The kernels that both poolings of boxes share, on CPU and GPU: means of bilinear samples at shifted bins."""

from __future__ import annotations

from pliant.ops._pooling.operator import PoolingOperator, register

__all__ = [
    "PoolingOperator",
    "register",
]
