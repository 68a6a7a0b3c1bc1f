# SPDX-License-Identifier: Apache-2.0
"""The operator `pliant::deform_roi_pool`: its schemas, and its functions. Both poolings are registered alike."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pliant.ops._deform_roi_pool.kernel_calls import (
    bins_of,
    gradient_of_boxes,
    gradient_of_mask,
    gradient_of_offset,
)
from pliant.ops._deform_roi_pool.reference import Pooling, deform_roi_pool_reference, samples_per_box
from pliant.ops._deform_roi_pool.reference_backward import deform_roi_pool_reference_backward
from pliant.ops._pooling.operator import PoolingOperator, register
from pliant.ops._roi_samples import pieces


def _pieces(input: Tensor, rois: Tensor, pooling: Pooling) -> Iterator[tuple[slice, slice]]:
    samples = samples_per_box(rois, (input.shape[2], input.shape[3]), pooling)
    return pieces(rois.shape[0], input.shape[1], samples, split_channels=True)


OPERATOR = PoolingOperator(
    name="deform_roi_pool",
    forward_schema=(
        "(Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, float spatial_scale, "
        "int sampling_ratio, float gamma) -> Tensor"
    ),
    # Always four results (input, rois, offset, mask), so that no result is optional; unneeded ones are empty.
    backward_schema=(
        "(Tensor grad, Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, "
        "float spatial_scale, int sampling_ratio, float gamma, bool[4] needed) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    gradients=(0, 1, 2, 3),
    pooling=Pooling.of,
    outputs=lambda input, pooling: input.shape[1],
    pieces=_pieces,
    reference=deform_roi_pool_reference,
    reference_backward=deform_roi_pool_reference_backward,
    bins=bins_of,
    of_sums=(gradient_of_boxes, gradient_of_offset, gradient_of_mask),
)
register(OPERATOR)
