# SPDX-License-Identifier: Apache-2.0
"""torchvision detectors on torchvision or timm backbones, with deformable layers where asked."""

from __future__ import annotations

from .backbones import PyramidBackbone as PyramidBackbone
from .backbones import backbone_names as backbone_names
from .backbones import pyramid_backbone as pyramid_backbone
from .faster_rcnn import faster_rcnn as faster_rcnn
from .trunks import classification_network as classification_network
