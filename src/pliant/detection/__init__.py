# SPDX-License-Identifier: Apache-2.0
"""torchvision detectors on torchvision or timm backbones, with deformable layers where asked."""

from __future__ import annotations

from .faster_rcnn import faster_rcnn as faster_rcnn
from .pyramid import PyramidBackbone as PyramidBackbone
from .pyramid import pyramid_backbone as pyramid_backbone
