# SPDX-License-Identifier: Apache-2.0
"""Classification networks of torchvision and timm as trunks of detectors and segmenters."""

from __future__ import annotations

from pliant.backbones.dilate import dilate as dilate
from pliant.backbones.networks import classification_network as classification_network
from pliant.backbones.prepare import prepared_trunk as prepared_trunk
from pliant.backbones.statistics import IMAGENET_MEAN as IMAGENET_MEAN
from pliant.backbones.statistics import IMAGENET_STD as IMAGENET_STD
from pliant.backbones.statistics import Colour as Colour
from pliant.backbones.statistics import pixel_statistics as pixel_statistics
from pliant.backbones.trunks import Trunk as Trunk
from pliant.backbones.trunks import backbone_names as backbone_names
from pliant.backbones.trunks import freeze_batch_norm as freeze_batch_norm
from pliant.backbones.trunks import is_stage_selector as is_stage_selector
from pliant.backbones.trunks import trunk as trunk
from pliant.backbones.weights import load_trunk_weights as load_trunk_weights
from pliant.backbones.weights import read_tensors as read_tensors
