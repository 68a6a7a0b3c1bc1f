# SPDX-License-Identifier: Apache-2.0
"""The detectors by their names, built from the options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pliant.detection import (
    DilatedBackbone,
    class_aware_rpn,
    dilated_backbone,
    faster_rcnn,
    faster_rcnn_dc5,
    mask_rcnn,
    rfcn,
)
from pliant.train.config import TrainConfig

# (config, classes with the background, weights of the backbone) to the detector.
Builder = Callable[[TrainConfig, int, str | None], nn.Module]


def trunk_options(config: TrainConfig, weights: str | None) -> dict[str, Any]:
    """Return the options of the backbone as every detector takes them."""
    return {
        "deform": config.deform,
        "modulated": config.modulated,
        "offset_groups": config.offset_groups,
        "mask_scale": config.mask_scale,
        "weights": weights,
        "norm": config.norm,
        "frozen_stages": config.frozen_stages,
    }


def common_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options of image size and tests as every detector takes them."""
    return {
        "anchor_ratios": config.anchor_ratios,
        "min_size": config.min_size,
        "max_size": config.max_size,
        "max_detections": max(config.max_detections, config.counted_detections or 0),
    }


def second_stage_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options of the second stage as every detector that has one takes them."""
    return {
        "roi_pool": config.roi_pool,
        "roi_samples": config.roi_samples,
        "ohem": config.ohem,
        "proposals": config.proposals,
    }


def _faster_rcnn(config: TrainConfig, num_classes: int, weights: str | None) -> nn.Module:
    model: nn.Module = faster_rcnn(num_classes, config.backbone, **_pyramid_options(config, weights))
    return model


def _mask_rcnn(config: TrainConfig, num_classes: int, weights: str | None) -> nn.Module:
    options = _pyramid_options(config, weights)
    model: nn.Module = mask_rcnn(num_classes, config.backbone, mask_channels=config.mask_channels, **options)
    return model


def _pyramid_options(config: TrainConfig, weights: str | None) -> dict[str, Any]:
    """The options of the detectors with a pyramid."""
    return {
        "strides": config.strides,
        "fpn_channels": config.fpn_channels,
        "head_channels": config.head_channels,
        "roi_branch": config.roi_branch,
        "roi_shared": config.roi_shared,
        "anchor_sizes": config.anchor_sizes,
        "anchor_scales": config.anchor_scales,
        **trunk_options(config, weights),
        **second_stage_options(config),
        **common_options(config),
    }


def _faster_rcnn_dc5(config: TrainConfig, num_classes: int, weights: str | None) -> nn.Module:
    model: nn.Module = faster_rcnn_dc5(
        num_classes,
        _dilated_backbone(config, weights),
        head_channels=config.head_channels,
        roi_samples_per_bin=config.roi_samples_per_bin,
        masks=config.model == "mask-rcnn-dc5",
        mask_channels=config.mask_channels,
        **_two_stage_options(config),
        **_single_map_options(config),
        **common_options(config),
    )
    return model


def _rfcn(config: TrainConfig, num_classes: int, weights: str | None) -> nn.Module:
    model: nn.Module = rfcn(
        num_classes,
        _dilated_backbone(config, weights),
        **_two_stage_options(config),
        **_single_map_options(config),
        **common_options(config),
    )
    return model


def _class_aware_rpn(config: TrainConfig, num_classes: int, weights: str | None) -> nn.Module:
    model: nn.Module = class_aware_rpn(
        num_classes, _dilated_backbone(config, weights), **_single_map_options(config), **common_options(config)
    )
    return model


def _dilated_backbone(config: TrainConfig, weights: str | None) -> DilatedBackbone:
    return dilated_backbone(
        config.backbone,
        reduction_channels=config.reduction_channels,
        reduction_lr_scale=config.reduction_lr_scale,
        dilation=config.dilation,
        **trunk_options(config, weights),
    )


def _two_stage_options(config: TrainConfig) -> dict[str, Any]:
    """The options of the second stage that the detectors without a pyramid have."""
    return {
        **second_stage_options(config),
        "train_proposals": config.train_proposals,
        "class_agnostic": config.class_agnostic,
        "background_iou": config.background_iou,
    }


def _single_map_options(config: TrainConfig) -> dict[str, Any]:
    """The options that the detectors without a pyramid share: all sizes of anchors belong to their one map."""
    sizes = [size * scale for size in config.anchor_sizes or () for scale in config.anchor_scales]
    return {"rpn_channels": config.rpn_channels, "anchor_sizes": sizes}


BUILDERS: dict[str, Builder] = {
    "faster-rcnn": _faster_rcnn,
    "mask-rcnn": _mask_rcnn,
    "faster-rcnn-dc5": _faster_rcnn_dc5,
    "mask-rcnn-dc5": _faster_rcnn_dc5,
    "rfcn": _rfcn,
    "class-aware-rpn": _class_aware_rpn,
}
