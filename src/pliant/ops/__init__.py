# SPDX-License-Identifier: Apache-2.0
"""The operators as functions: tensors in, tensors out."""

from pliant.ops.deform_conv2d import deform_conv2d as deform_conv2d
from pliant.ops.deform_ps_roi_pool import deform_ps_roi_pool as deform_ps_roi_pool
from pliant.ops.deform_roi_pool import deform_roi_pool as deform_roi_pool
