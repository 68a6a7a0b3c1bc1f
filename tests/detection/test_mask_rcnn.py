# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN: torchvision's names, and masks that are learned through deformable pooling."""

from __future__ import annotations

import torch
import torchvision

from helpers.detectors import build
from pliant.detection import mask_rcnn
from pliant.nn import DeformRoIPool


def test_names_and_shapes_are_torchvisions() -> None:
    """So its checkpoint for COCO loads, and one with deformable pools differs by their branches alone."""
    with torch.device("meta"):
        theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
        ours = build(mask_rcnn, 91, "resnet50", norm="frozen")
        deformable = build(mask_rcnn, 91, "resnet50", norm="frozen", roi_pool="modulated")
    kept = {name: t.shape for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert {name: t.shape for name, t in ours.state_dict().items()} == kept
    assert sum(p.numel() for p in ours.parameters()) == 44_401_393  # as torchvision says of its weights
    added = deformable.state_dict().keys() - kept.keys()
    assert kept.keys() < deformable.state_dict().keys()
    assert {name.split(".levels.")[0] for name in added} == {"roi_heads.box_roi_pool", "roi_heads.mask_roi_pool"}


def test_both_pools_of_mask_rcnn_have_branches_of_their_own() -> None:
    model = build(mask_rcnn, 3, strides=(16, 32), fpn_channels=4, head_channels=4, roi_pool="deform")
    counts = [
        sum(p.numel() for p in pool.parameters())
        for pool in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool)
    ]
    assert counts == [4 * 49 * 98 + 98, 4 * 196 * 392 + 392]


def test_a_mask_is_learned_through_modulated_pooling() -> None:
    """A bright ring, which covers half of its box: a mask of all of the box would be no better than chance."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(112.0), indexing="ij")
    distance = ((rows - 44) ** 2 + (columns - 52) ** 2).sqrt()
    ring = (distance < 34) & (distance > 18)
    image = torch.where(ring, 0.9, 0.2).repeat(3, 1, 1) + 0.02 * torch.rand(3, 96, 112)
    target = {
        "boxes": torch.tensor([[18.0, 10.0, 86.0, 78.0]]),
        "labels": torch.tensor([1]),
        "masks": ring[None].to(torch.uint8),
    }
    model = build(
        mask_rcnn,
        2,
        "resnet18",
        strides=(4, 8),
        fpn_channels=32,
        head_channels=32,
        mask_channels=32,
        roi_pool="modulated",
        roi_samples=16,
        min_size=96,
        max_size=128,
        anchor_sizes=(32, 64, 96),
        norm="frozen",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    losses = []
    for _ in range(22):
        found = model([image], [target])
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        losses.append(found["loss_mask"].item())
    assert losses[-1] < 0.35 < 0.6 < losses[0]  # always saying half is 0.69
    for pool in (m for m in model.modules() if isinstance(m, DeformRoIPool)):
        assert pool.offset_fc[-1].weight.abs().max() > 1e-3  # from zero: the branches of both pools learn
