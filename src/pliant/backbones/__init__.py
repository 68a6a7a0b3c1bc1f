# SPDX-License-Identifier: Apache-2.0
"""Classification networks of torchvision and timm as trunks of detectors and segmenters."""

from __future__ import annotations

from .dilate import dilate as dilate
from .networks import classification_network as classification_network
from .prepare import prepared_trunk as prepared_trunk
from .statistics import IMAGENET_MEAN as IMAGENET_MEAN
from .statistics import IMAGENET_STD as IMAGENET_STD
from .statistics import Colour as Colour
from .statistics import pixel_statistics as pixel_statistics
from .trunks import Trunk as Trunk
from .trunks import backbone_names as backbone_names
from .trunks import freeze_batch_norm as freeze_batch_norm
from .trunks import is_stage_selector as is_stage_selector
from .trunks import trunk as trunk
from .weights import load_trunk_weights as load_trunk_weights
from .weights import read_tensors as read_tensors
