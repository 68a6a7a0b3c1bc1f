# SPDX-License-Identifier: Apache-2.0
"""torchvision detectors on torchvision or timm backbones, with deformable layers where asked."""

from __future__ import annotations

from pliant.detection.class_aware_rpn import class_aware_rpn as class_aware_rpn
from pliant.detection.dilated import DilatedBackbone as DilatedBackbone
from pliant.detection.dilated import dilated_backbone as dilated_backbone
from pliant.detection.faster_rcnn import faster_rcnn as faster_rcnn
from pliant.detection.faster_rcnn import mask_rcnn as mask_rcnn
from pliant.detection.faster_rcnn_dc5 import faster_rcnn_dc5 as faster_rcnn_dc5
from pliant.detection.faster_rcnn_dc5 import mask_rcnn_dc5 as mask_rcnn_dc5
from pliant.detection.mimic import add_mimicking as add_mimicking
from pliant.detection.mimic import drop_mimicking as drop_mimicking
from pliant.detection.mimic import without_mimicking as without_mimicking
from pliant.detection.mimic_parts import MimicOptions as MimicOptions
from pliant.detection.pyramid import PyramidBackbone as PyramidBackbone
from pliant.detection.pyramid import pyramid_backbone as pyramid_backbone
from pliant.detection.rfcn import rfcn as rfcn
from pliant.detection.roi_pools import ROI_POOLS as ROI_POOLS
from pliant.detection.roi_pools import MultiScaleDeformRoIPool as MultiScaleDeformRoIPool
from pliant.detection.views import Thresholds as Thresholds
from pliant.detection.views import add_masks as add_masks
from pliant.detection.views import candidates as candidates
from pliant.detection.views import has_masks as has_masks
from pliant.detection.views import set_thresholds as set_thresholds
from pliant.detection.views import thresholds as thresholds
