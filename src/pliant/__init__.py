# SPDX-License-Identifier: Apache-2.0
"""Deformable ConvNets for PyTorch: operators, layers, model surgery, and the systems of the two papers."""

from pliant import nn as nn
from pliant import ops as ops
