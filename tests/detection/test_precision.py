# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: coordinates of boxes, scores and losses are float32 in every detector, whatever the maps are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from helpers.blobs import PICTURE, TRUTH
from helpers.detectors import build
from pliant.backbones import Trunk
from pliant.detection import (
    AnchorOptions,
    MimicOptions,
    add_mimicking,
    class_aware_rpn,
    dilated_backbone,
    faster_rcnn,
    faster_rcnn_dc5,
    mask_rcnn,
    rfcn,
)
from pliant.detection.proposals import map_anchors


def pyramid() -> GeneralizedRCNN:
    options = {"strides": (8, 16), "fpn_channels": 8, "head_channels": 8, "mask_channels": 8, "roi_samples": 16}
    model = build(mask_rcnn, 3, min_size=64, proposals=20, roi_pool="modulated", score_threshold=0.0, **options)
    return add_mimicking(model, MimicOptions(crop_size=64, boxes_per_image=2))


def single_map() -> GeneralizedRCNN:
    backbone = dilated_backbone(Trunk("resnet18", deform="c5"), reduction_channels=16)
    sizes = {"head_channels": 16, "roi_samples": 16, "proposals": 20, "anchor_sizes": (16, 32)}
    return build(faster_rcnn_dc5, 3, backbone, roi_pool="modulated", min_size=64, score_threshold=0.0, **sizes)


def position_sensitive() -> GeneralizedRCNN:
    backbone = dilated_backbone(Trunk("resnet18", deform="c5"), reduction_channels=16)
    sizes = {"min_size": 64, "anchor_sizes": (16, 32), "proposals": 20}
    return build(rfcn, 3, backbone, roi_pool="deform", score_threshold=0.0, **sizes)


def one_stage() -> GeneralizedRCNN:
    backbone = dilated_backbone("resnet18", reduction_channels=16)
    return build(class_aware_rpn, 3, backbone, min_size=64, anchor_sizes=(16, 32), score_threshold=0.0)


@pytest.mark.parametrize("build", [pyramid, single_map, position_sensitive, one_stage])
def test_boxes_scores_and_losses_stay_in_float32_under_autocast(build: Callable[[], GeneralizedRCNN]) -> None:
    torch.manual_seed(3)
    model = build()
    masks = torch.zeros(2, 64, 80, dtype=torch.uint8)
    masks[0, 8:40, 6:38] = masks[1, 30:62, 46:62] = 1
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    regions: list[Tensor] = []
    pool = getattr(model.roi_heads, "box_roi_pool", torch.nn.Identity())
    pool.register_forward_pre_hook(lambda _, args: regions.extend(args[1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.train()([PICTURE, PICTURE.flip(2)], [{**TRUTH, "masks": masks}, empty])
        with torch.no_grad():
            found = model.eval()([PICTURE])[0]
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    values = [*losses.values(), *regions, *(found[name] for name in found if name != "labels")]
    assert {value.dtype for value in values} == {torch.float32}
    assert all(value.isfinite().all() for value in values)
    assert len(found["scores"]) > 0


def test_anchors_of_a_large_image_are_exact_whatever_the_maps_are() -> None:
    images = ImageList(torch.empty(1, 3, 1024, 1600, device="meta"), [(1000, 1600)])
    sizes = (90.0, 300.0)  # the wide ones are 212 and 424 pixels long
    generators = [
        map_anchors(AnchorOptions(sizes, ratios=(0.5, 1.0))),
        build(faster_rcnn, 2, anchor_sizes=(90, 90, 90, 90, 90)).rpn.anchor_generator,
    ]
    for generator, strides in zip(generators, [(16,), (4, 8, 16, 32, 64)], strict=True):
        exact, half = (
            generator(images, [torch.empty(1, 8, 1024 // s, 1600 // s, dtype=dtype) for s in strides])[0]
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert exact.amax() > 1600
        assert half.dtype == torch.float32
        assert torch.equal(half, exact)
