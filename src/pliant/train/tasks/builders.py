# SPDX-License-Identifier: Apache-2.0
"""The builders that the table of models names: from the settings of a run to its model.

Each takes (config, categories, weights): the weights of the backbone are used, not the config's.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import nn

from pliant.backbones import Trunk
from pliant.classification import classifier
from pliant.detection import (
    AnchorOptions,
    DilatedBackbone,
    MimicOptions,
    SecondStage,
    add_mimicking,
    class_aware_rpn,
    dilated_backbone,
    faster_rcnn,
    faster_rcnn_dc5,
    pyramid_backbone,
    rfcn,
    set_thresholds,
    thresholds,
)
from pliant.segmentation import deeplab
from pliant.train.config import TrainConfig
from pliant.train.options import applies


def build_faster_rcnn(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build Faster or Mask R-CNN over a feature pyramid."""
    trunk = _trunk(config, weights)
    model = faster_rcnn(
        categories + 1,
        pyramid_backbone(trunk, strides=config.strides, out_channels=config.fpn_channels),
        second_stage=_second_stage(config),
        **config.named("roi_branch", "roi_shared"),
        **_fc_head(config),
        **_common(config),
    )
    return _finished(model, config)


def build_faster_rcnn_dc5(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build Faster or Mask R-CNN in the papers' form."""
    model = faster_rcnn_dc5(
        categories + 1, _dilated(config, weights), **_fc_head(config), **_single_map_stages(config), **_common(config)
    )
    return _finished(model, config)


def build_rfcn(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build R-FCN."""
    model = rfcn(categories + 1, _dilated(config, weights), **_single_map_stages(config), **_common(config))
    return _finished(model, config)


def build_class_aware_rpn(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build the class-aware RPN."""
    backbone = _dilated(config, weights)
    model = class_aware_rpn(categories + 1, backbone, rpn_channels=config.rpn_channels, **_common(config))
    return _finished(model, config)


def build_deeplab(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build DeepLab."""
    return deeplab(
        categories,
        _trunk(config, weights),
        min_size=None if config.window else config.min_size,
        **config.named("offset_dilation", "output_stride", "dilation", "bias_lr_scale", "max_size"),
    )


def build_classifier(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build a classifier."""
    sizes = config.named("resize_size", "crop_size", "label_smoothing")
    return classifier(categories, _trunk(config, weights), **sizes)


def _trunk(config: TrainConfig, weights: str | None) -> Trunk:
    layers = config.named("deform", "modulated", "offset_groups", "mask_scale", "offset_limit")
    return Trunk(config.backbone, weights=weights, **layers, **config.named("norm", "frozen_stages"))


def _dilated(config: TrainConfig, weights: str | None) -> DilatedBackbone:
    settings = config.named("reduction_channels", "reduction_lr_scale", "dilation")
    return dilated_backbone(_trunk(config, weights), **settings)


def _common(config: TrainConfig) -> dict[str, Any]:
    """What every detector has."""
    anchors = AnchorOptions(config.anchor_sizes, config.anchor_scales, config.anchor_ratios)
    return {"anchors": anchors, **config.named("min_size", "max_size")}


def _fc_head(config: TrainConfig) -> dict[str, Any]:
    mask_channels = config.mask_channels if applies(("masks",), config.model) else None
    return {"mask_channels": mask_channels, **config.named("head_channels")}


def _single_map_stages(config: TrainConfig) -> dict[str, Any]:
    """The two stages of the detectors of two stages without a pyramid."""
    own = config.named("class_agnostic", "background_iou", "rpn_channels")
    return {"second_stage": _second_stage(config), **own}


def _second_stage(config: TrainConfig) -> SecondStage:
    own = config.named("roi_pool", "roi_samples", "ohem", "train_proposals", "proposals")
    return SecondStage(samples_per_bin=config.roi_samples_per_bin, **own)


def _finished(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Give a detector the branch of feature mimicking, if it is asked for, and the thresholds of `config`."""
    if config.mimic:
        settings = {spec.name: getattr(config, f"mimic_{spec.name}") for spec in fields(MimicOptions)}
        add_mimicking(model, MimicOptions(**settings))
    own = thresholds(model)
    score = own.score if config.score_threshold is None else config.score_threshold
    nms = own.nms if config.nms_threshold is None else config.nms_threshold
    detections = max(config.max_detections, config.counted_detections or 0)
    set_thresholds(model, replace(own, score=score, nms=nms, detections=detections))
    return model
