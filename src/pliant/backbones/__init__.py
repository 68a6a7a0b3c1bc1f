# SPDX-License-Identifier: Apache-2.0
"""Classification networks of torchvision and timm as trunks of detectors and segmenters."""

from __future__ import annotations

from pliant.backbones.dilate import dilate
from pliant.backbones.networks import classification_network
from pliant.backbones.prepare import prepared_trunk
from pliant.backbones.statistics import IMAGENET_MEAN, IMAGENET_STD, Colour, pixel_statistics
from pliant.backbones.trunks import Trunk, backbone_names, freeze_batch_norm, is_stage_selector, trunk
from pliant.backbones.weights import load_trunk_weights, read_tensors

__all__ = [
    "dilate",
    "classification_network",
    "prepared_trunk",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Colour",
    "pixel_statistics",
    "Trunk",
    "backbone_names",
    "freeze_batch_norm",
    "is_stage_selector",
    "trunk",
    "load_trunk_weights",
    "read_tensors",
]
