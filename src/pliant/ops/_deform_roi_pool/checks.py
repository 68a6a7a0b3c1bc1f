# SPDX-License-Identifier: Apache-2.0
"""What the arguments of deformable RoI pooling must be, apart from the boxes: each rule once, worded by `_check`."""

from __future__ import annotations

from torch import Tensor

from pliant.ops._checks import check_dim, check_maps_of_boxes, check_tensor
from pliant.ops._deform_roi_pool.reference import Pooling


def check_arguments(input: Tensor, boxes: int, offset: Tensor | None, mask: Tensor | None, pooling: Pooling) -> None:
    """Raise unless types, devices, dimensions and shapes fit one another and the number of `boxes`."""
    for name, tensor, channels in (("offset", offset, 2), ("mask", mask, 1)):
        if tensor is not None:
            check_tensor(name, tensor, input)
            check_dim(name, tensor, (4,), f"(R, {channels}, Ph, Pw)")
            reason = f"output_size {pooling.output_size}"
            check_maps_of_boxes(name, tensor, (boxes, channels, *pooling.output_size), reason)
