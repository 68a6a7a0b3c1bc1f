# SPDX-License-Identifier: Apache-2.0
"""Deformable ConvNets for PyTorch: operators, layers, model surgery, and the systems of the two papers."""

from pliant import nn as nn
from pliant import ops as ops
from pliant._version import __version__ as __version__
from pliant.surgery import convert as convert
from pliant.surgery import param_groups as param_groups
from pliant.surgery import plan as plan
from pliant.surgery import revert as revert
