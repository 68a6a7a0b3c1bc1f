# SPDX-License-Identifier: Apache-2.0
"""The operators as functions: tensors in, tensors out."""

from pliant.ops._deform_conv2d import deform_conv2d
from pliant.ops._deform_ps_roi_pool import deform_ps_roi_pool
from pliant.ops._deform_roi_pool import deform_roi_pool
from pliant.ops._flops import register_when_imported as _register_flops
from pliant.ops._instruction_sets import instruction_set, instruction_sets

_register_flops()

__all__ = [
    "deform_conv2d",
    "deform_ps_roi_pool",
    "deform_roi_pool",
    "instruction_set",
    "instruction_sets",
]
