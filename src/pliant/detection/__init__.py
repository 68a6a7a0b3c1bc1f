# SPDX-License-Identifier: Apache-2.0
"""torchvision detectors on torchvision or timm backbones, with deformable layers where asked."""

from __future__ import annotations

from pliant.detection.class_aware_rpn import class_aware_rpn
from pliant.detection.dilated import DilatedBackbone, dilated_backbone
from pliant.detection.faster_rcnn import faster_rcnn, mask_rcnn
from pliant.detection.faster_rcnn_dc5 import faster_rcnn_dc5, mask_rcnn_dc5
from pliant.detection.mimic import add_mimicking, drop_mimicking, without_mimicking
from pliant.detection.mimic_parts import MimicOptions
from pliant.detection.pyramid import PyramidBackbone, pyramid_backbone
from pliant.detection.rfcn import rfcn
from pliant.detection.roi_pools import ROI_POOLS, MultiScaleDeformRoIPool
from pliant.detection.views import Thresholds, add_masks, candidates, has_masks, set_thresholds, thresholds

__all__ = [
    "class_aware_rpn",
    "DilatedBackbone",
    "dilated_backbone",
    "faster_rcnn",
    "mask_rcnn",
    "faster_rcnn_dc5",
    "mask_rcnn_dc5",
    "add_mimicking",
    "drop_mimicking",
    "without_mimicking",
    "MimicOptions",
    "PyramidBackbone",
    "pyramid_backbone",
    "rfcn",
    "ROI_POOLS",
    "MultiScaleDeformRoIPool",
    "Thresholds",
    "add_masks",
    "candidates",
    "has_masks",
    "set_thresholds",
    "thresholds",
]
