# SPDX-License-Identifier: Apache-2.0
"""torchvision detectors on torchvision or timm backbones, with deformable layers where asked."""

from __future__ import annotations

from .class_aware_rpn import class_aware_rpn as class_aware_rpn
from .dilated import DilatedBackbone as DilatedBackbone
from .dilated import dilated_backbone as dilated_backbone
from .faster_rcnn import faster_rcnn as faster_rcnn
from .faster_rcnn import mask_rcnn as mask_rcnn
from .faster_rcnn_dc5 import faster_rcnn_dc5 as faster_rcnn_dc5
from .faster_rcnn_dc5 import mask_rcnn_dc5 as mask_rcnn_dc5
from .mimic import add_mimicking as add_mimicking
from .mimic import drop_mimicking as drop_mimicking
from .mimic import without_mimicking as without_mimicking
from .mimic_parts import MimicOptions as MimicOptions
from .pyramid import PyramidBackbone as PyramidBackbone
from .pyramid import pyramid_backbone as pyramid_backbone
from .rfcn import rfcn as rfcn
from .roi_pools import ROI_POOLS as ROI_POOLS
from .roi_pools import MultiScaleDeformRoIPool as MultiScaleDeformRoIPool
from .views import Thresholds as Thresholds
from .views import add_masks as add_masks
from .views import candidates as candidates
from .views import has_masks as has_masks
from .views import set_thresholds as set_thresholds
from .views import thresholds as thresholds
