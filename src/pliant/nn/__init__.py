# SPDX-License-Identifier: Apache-2.0
"""Layers with their own offset branch."""

from pliant.nn.deform_conv import DeformConv2d as DeformConv2d
