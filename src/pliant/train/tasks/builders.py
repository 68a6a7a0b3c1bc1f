# SPDX-License-Identifier: Apache-2.0
"""The builders that the table of models names: from the settings of a run to its model.

Each takes (config, categories, weights): the weights of the backbone are used, not the config's.
"""

from __future__ import annotations

from dataclasses import replace
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
        roi_branch=config.roi_branch,
        roi_shared=config.roi_shared,
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
        offset_dilation=config.offset_dilation,
        output_stride=config.output_stride,
        dilation=config.dilation,
        bias_lr_scale=config.bias_lr_scale,
        min_size=None if config.window else config.min_size,
        max_size=config.max_size,
    )


def build_classifier(config: TrainConfig, categories: int, weights: str | None) -> nn.Module:
    """Build a classifier."""
    return classifier(
        categories,
        _trunk(config, weights),
        resize_size=config.resize_size,
        crop_size=config.crop_size,
        label_smoothing=config.label_smoothing,
    )


def _trunk(config: TrainConfig, weights: str | None) -> Trunk:
    return Trunk(
        config.backbone,
        deform=config.deform,
        modulated=config.modulated,
        offset_groups=config.offset_groups,
        mask_scale=config.mask_scale,
        offset_limit=config.offset_limit,
        weights=weights,
        norm=config.norm,
        frozen_stages=config.frozen_stages,
    )


def _dilated(config: TrainConfig, weights: str | None) -> DilatedBackbone:
    return dilated_backbone(
        _trunk(config, weights),
        reduction_channels=config.reduction_channels,
        reduction_lr_scale=config.reduction_lr_scale,
        dilation=config.dilation,
    )


def _common(config: TrainConfig) -> dict[str, Any]:
    """What every detector has."""
    anchors = AnchorOptions(config.anchor_sizes, config.anchor_scales, config.anchor_ratios)
    return {"anchors": anchors, "min_size": config.min_size, "max_size": config.max_size}


def _fc_head(config: TrainConfig) -> dict[str, Any]:
    mask_channels = config.mask_channels if applies(("masks",), config.model) else None
    return {"head_channels": config.head_channels, "mask_channels": mask_channels}


def _single_map_stages(config: TrainConfig) -> dict[str, Any]:
    """The two stages of the detectors of two stages without a pyramid."""
    return {
        "second_stage": _second_stage(config),
        "class_agnostic": config.class_agnostic,
        "background_iou": config.background_iou,
        "rpn_channels": config.rpn_channels,
    }


def _second_stage(config: TrainConfig) -> SecondStage:
    return SecondStage(
        roi_pool=config.roi_pool,
        samples_per_bin=config.roi_samples_per_bin,
        roi_samples=config.roi_samples,
        ohem=config.ohem,
        train_proposals=config.train_proposals,
        proposals=config.proposals,
    )


def _finished(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Give a detector the branch of feature mimicking, if it is asked for, and the thresholds of `config`."""
    if config.mimic:
        add_mimicking(model, _mimic(config))
    own = thresholds(model)
    score = own.score if config.score_threshold is None else config.score_threshold
    nms = own.nms if config.nms_threshold is None else config.nms_threshold
    detections = max(config.max_detections, config.counted_detections or 0)
    set_thresholds(model, replace(own, score=score, nms=nms, detections=detections))
    return model


def _mimic(config: TrainConfig) -> MimicOptions:
    return MimicOptions(
        weight=config.mimic_weight,
        classifier_weight=config.mimic_classifier_weight,
        boxes=config.mimic_boxes,
        boxes_per_image=config.mimic_boxes_per_image,
        crop_size=config.mimic_crop_size,
        iou=config.mimic_iou,
        ground_truth=config.mimic_ground_truth,
        too_few=config.mimic_too_few,
        interpolation=config.mimic_interpolation,
        stop_gradient=config.mimic_stop_gradient,
        feature=config.mimic_feature,
        reduction=config.mimic_reduction,
        chunk=config.mimic_chunk,
    )
