# SPDX-License-Identifier: Apache-2.0
"""Classification networks of torchvision and timm as trunks of detectors and segmenters."""

from __future__ import annotations

from pliant._imagenet import IMAGENET_MEAN, IMAGENET_STD
from pliant.backbones.dilation import dilate
from pliant.backbones.prepare import Norm, Trunk, as_trunk, build_trunk, classification_network
from pliant.backbones.stages import (
    Colour,
    StagedNetwork,
    backbone_names,
    freeze_batch_norm,
    is_stage_selector,
    pixel_statistics,
    staged_network,
)
from pliant.backbones.weights import load_trunk_weights, read_tensors

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Colour",
    "Norm",
    "StagedNetwork",
    "Trunk",
    "as_trunk",
    "backbone_names",
    "build_trunk",
    "classification_network",
    "dilate",
    "freeze_batch_norm",
    "is_stage_selector",
    "load_trunk_weights",
    "pixel_statistics",
    "read_tensors",
    "staged_network",
]
