# SPDX-License-Identifier: Apache-2.0
"""The class-aware region proposal network: matching, losses, class-wise detections, parameters, training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.blobs import PICTURE, TRUTH, losses_of_training
from helpers.detectors import build
from pliant._check import PliantError
from pliant.backbones import Trunk
from pliant.detection import class_aware_rpn, dilated_backbone
from pliant.detection.one_stage import ClassAwareProposals


def tiny(deform: str | None = None, **options: object) -> nn.Module:
    torch.manual_seed(2)
    backbone = dilated_backbone(Trunk("resnet18", deform=deform, modulated=False), reduction_channels=32)
    options = {"anchor_sizes": (16, 32), "rpn_channels": 24, "min_size": 64, "max_size": 96, **options}
    return build(class_aware_rpn, 3, backbone, **options)


def network(model: nn.Module) -> ClassAwareProposals:
    assert isinstance(model.rpn, ClassAwareProposals)
    return model.rpn


def test_one_score_per_class_and_one_box_for_each_anchor() -> None:
    model = tiny()
    maps = model.backbone(torch.rand(1, 3, 64, 96))  # type: ignore[operator]
    scores, boxes = network(model).head([maps["c5"]])
    assert scores[0].shape == (1, 2 * 3 * 3, 4, 6)  # sizes x ratios x classes with the background
    assert boxes[0].shape == (1, 2 * 3 * 4, 4, 6)


def test_anchors_take_the_class_of_their_box() -> None:
    anchors = torch.tensor([[0.0, 0, 20, 20], [0, 0, 18, 20], [0, 0, 12, 20], [30, 0, 50, 20], [32, 0, 50, 20]])
    # Overlaps of the last one: 0 and 0.5, which would be neither, but it is the second box's best.
    target = {"boxes": torch.tensor([[0.0, 0, 20, 20], [32, 0, 50, 40]]), "labels": torch.tensor([2, 1])}
    labels, boxes = network(tiny()).match(anchors, target)
    assert labels.tolist() == [2, 2, -1, -1, 1]
    assert boxes[4].tolist() == [32, 0, 50, 40]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert network(tiny()).match(anchors, empty)[0].tolist() == [0] * 5


def test_losses_by_hand() -> None:
    anchors = [torch.tensor([[0.0, 0, 20, 20], [60, 60, 80, 80], [0, 0, 12, 20]])]  # foreground, background, neither
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [0.0, math.log(2), math.log(5)], [9.0, -9, -9]])
    deltas = torch.tensor([[0.0, 0.5, 0, 0], [7.0, 7, 7, 7], [7.0, 7, 7, 7]])
    target = {"boxes": torch.tensor([[0.0, 0, 20, 20]]), "labels": torch.tensor([2])}
    losses = network(tiny()).losses(logits, deltas, anchors, [target])
    assert losses["loss_classifier"].item() == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)
    assert losses["loss_box_reg"].item() == pytest.approx((0.5 - 0.5 / 9) / 2)


def test_detections_are_suppressed_class_by_class() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [1, 0, 21, 20], [50, 50, 90, 90]])
    scores = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7], [0.97, 0.02, 0.01]])
    found = network(tiny(nms_threshold=0.3)).eval().detections(boxes, scores, (64, 80))
    # Class 2: 0.7 of the second box puts down 0.3 of the first. Class 1: 0.6 of the first puts down 0.1 of the second.
    torch.testing.assert_close(found["scores"], torch.tensor([0.7, 0.6]))
    assert found["labels"].tolist() == [2, 1]
    assert found["boxes"].tolist() == [[1, 0, 21, 20], [0, 0, 20, 20]]
    low = network(tiny(score_threshold=0.005, nms_threshold=0.3, max_detections=3)).eval()
    assert low.detections(boxes, scores, (64, 80))["boxes"][2].tolist() == [50, 50, 80, 64]  # clipped to the image


@pytest.mark.parametrize("deform", [None, "c5"])
def test_training_reduces_the_losses(deform: str | None) -> None:
    model = tiny(deform)
    first, last = losses_of_training(model, steps=12)
    assert set(first) == {"loss_classifier", "loss_box_reg"}
    assert sum(last.values()) < 0.6 * sum(first.values())
    model.eval()
    with torch.no_grad():
        found: dict[str, Tensor] = model([PICTURE])[0]
    assert found["boxes"].shape == (len(found["scores"]), 4)
    assert found["labels"].dtype == torch.int64
    assert found["scores"].diff().le(0).all()


def test_parameters_of_the_v1_paper() -> None:
    with torch.device("meta"):
        backbones = (
            dilated_backbone(Trunk("resnet101", deform=deform, modulated=False), reduction_channels=1024)
            for deform in (None, "c5")
        )
        counts = [sum(p.numel() for p in class_aware_rpn(21, backbone).parameters()) for backbone in backbones]
    # 3 layers with an offset branch of 512*9*18 weights and 18 biases.
    assert counts[1] - counts[0] == 3 * (512 * 9 * 18 + 18)
    trunk, reduction = 42_500_160, 2048 * 1024 + 1024
    head = 1024 * 512 * 9 + 512 + (512 + 1) * 12 * (21 + 4)
    assert counts[0] == trunk + reduction + head


def test_targets_without_boxes_train() -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = tiny().train()([PICTURE, PICTURE], [empty, TRUTH])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert tiny().train()([PICTURE], [empty])["loss_box_reg"].item() == 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(PliantError, match=r"anchor_sizes: must be positive numbers, at least one; got \(0.0,\)"):
        tiny(anchor_sizes=(0,))
    with pytest.raises(ValueError, match="num_classes: must count the background and at least one class; got 1"):
        class_aware_rpn(1, "resnet18")
