# SPDX-License-Identifier: Apache-2.0
"""The operator `pliant::deform_ps_roi_pool`: its schemas, and its functions. Both poolings are registered alike."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pliant.ops._deform_ps_roi_pool.kernel_calls import bins_of, gradient_of_mask, gradient_of_offset
from pliant.ops._deform_ps_roi_pool.reference import PSPooling, deform_ps_roi_pool_reference
from pliant.ops._deform_ps_roi_pool.reference_backward import deform_ps_roi_pool_reference_backward
from pliant.ops._pooling.operator import PoolingOperator, register
from pliant.ops._roi_samples import pieces


def _pieces(input: Tensor, rois: Tensor, pooling: PSPooling) -> Iterator[tuple[slice, slice]]:
    """Cut the boxes alone: a class reads channels of its own."""
    bins = pooling.output_size[0] * pooling.output_size[1]
    samples = bins * pooling.samples_per_bin**2 * pooling.output_channels
    return ((boxes, slice(None)) for boxes, _ in pieces(rois.shape[0], 1, samples, split_channels=False))


OPERATOR = PoolingOperator(
    name="deform_ps_roi_pool",
    forward_schema=(
        "(Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, int output_channels, "
        "int group_size, int[2] part_size, int samples_per_bin, float spatial_scale, float gamma) -> Tensor"
    ),
    # Always three results (input, offset, mask), so that no result is optional; unneeded ones are empty. The boxes are
    # rounded and have no gradient.
    backward_schema=(
        "(Tensor grad, Tensor input, Tensor rois, Tensor? offset, Tensor? mask, int[2] output_size, "
        "int output_channels, int group_size, int[2] part_size, int samples_per_bin, float spatial_scale, "
        "float gamma, bool[3] needed) -> (Tensor, Tensor, Tensor)"
    ),
    gradients=(0, 2, 3),
    pooling=PSPooling.of,
    outputs=lambda input, pooling: pooling.output_channels,
    pieces=_pieces,
    reference=deform_ps_roi_pool_reference,
    reference_backward=deform_ps_roi_pool_reference_backward,
    bins=bins_of,
    of_sums=(gradient_of_offset, gradient_of_mask),
)
register(OPERATOR)
