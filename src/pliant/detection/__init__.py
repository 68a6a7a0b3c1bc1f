# SPDX-License-Identifier: Apache-2.0
"""torchvision detectors on torchvision or timm backbones, with deformable layers where asked."""

from __future__ import annotations

from pliant.detection.dilated import DilatedBackbone, dilated_backbone
from pliant.detection.mimic import add_mimicking, drop_mimicking, without_mimicking
from pliant.detection.mimic_parts import MimicOptions
from pliant.detection.one_stage import class_aware_rpn
from pliant.detection.parts import AnchorOptions, SecondStage, Thresholds, set_thresholds, thresholds
from pliant.detection.position_sensitive import RFCN_SECOND_STAGE, rfcn
from pliant.detection.pyramid_detectors import PyramidBackbone, faster_rcnn, mask_rcnn, pyramid_backbone
from pliant.detection.roi_pools import ROI_POOLS, MultiScaleDeformRoIPool
from pliant.detection.single_map import faster_rcnn_dc5, mask_rcnn_dc5

__all__ = [
    "RFCN_SECOND_STAGE",
    "ROI_POOLS",
    "AnchorOptions",
    "DilatedBackbone",
    "MimicOptions",
    "MultiScaleDeformRoIPool",
    "PyramidBackbone",
    "SecondStage",
    "Thresholds",
    "add_mimicking",
    "class_aware_rpn",
    "dilated_backbone",
    "drop_mimicking",
    "faster_rcnn",
    "faster_rcnn_dc5",
    "mask_rcnn",
    "mask_rcnn_dc5",
    "pyramid_backbone",
    "rfcn",
    "set_thresholds",
    "thresholds",
    "without_mimicking",
]
