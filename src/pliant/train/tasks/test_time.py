# SPDX-License-Identifier: Apache-2.0
"""A detector's predictions with what is done at test time alone: several sizes, mirror images, soft suppression, ..."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from pliant.detection import add_masks, candidates, has_masks, thresholds
from pliant.evaluation import average_boxes, suppress
from pliant.train.config import TrainConfig
from pliant.train.tasks.base import Output, Predictor


def detection_predictor(model: GeneralizedRCNN, config: TrainConfig) -> Predictor:
    """Return the function of images that predicts: the detector itself where nothing more is asked for."""
    plain = config.nms == "hard" and not (config.test_scales or config.test_flip or config.box_averaging)
    if plain:
        predict: Predictor = model
        return predict
    return lambda images: _predict(model, config, images)


def _predict(model: GeneralizedRCNN, config: TrainConfig, images: list[Tensor]) -> list[Output]:
    """Detect on every view of the images, and suppress and average the boxes of all views together."""
    views = [
        candidates(model, images, size=size, flip=flip)
        for size in _sizes(config)
        for flip in (False, True)[: 1 + config.test_flip]
    ]
    outputs = [_merge(model, config, [view[k] for view in views]) for k in range(len(images))]
    return add_masks(model, images, outputs) if has_masks(model) else outputs


def _sizes(config: TrainConfig) -> list[tuple[int, int] | None]:
    """The sizes of the views: short side and limit of the long side, which by default grows in proportion."""
    if config.test_scales is None:
        return [None]
    proportion = config.max_size / config.min_size[-1]
    return [(scale, config.test_max_size or round(scale * proportion)) for scale in config.test_scales]


def _merge(model: GeneralizedRCNN, config: TrainConfig, views: list[Output]) -> Output:
    every = [torch.cat([view[name] for view in views]) for name in ("boxes", "scores", "labels")]
    limits = thresholds(model)
    kept, scores = suppress(
        *every,
        method=config.nms,
        iou_threshold=limits.nms,
        sigma=config.soft_nms_sigma,
        max_detections=limits.detections,
    )
    boxes, labels = every[0][kept], every[2][kept]
    if config.box_averaging:
        iou = config.box_averaging_iou
        boxes = average_boxes(boxes, labels, *every, iou_threshold=iou, rounds=config.box_averaging)
    return {"boxes": boxes, "labels": labels, "scores": scores}
