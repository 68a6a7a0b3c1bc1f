# SPDX-License-Identifier: Apache-2.0
"""The second stage's losses, region by region, and which regions hard example mining keeps: by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.blobs import PICTURE, TRUTH
from helpers.detectors import build
from pliant._check import PliantError
from pliant.detection import Thresholds, faster_rcnn
from pliant.detection.box_heads import BoxHeads, hardest, region_losses

# Four regions, three classes with the background. Softmax of (0, ln 2, ln 5) is (1, 2, 5) / 8.
LOGITS = torch.tensor([[0.0, math.log(2), math.log(5)]]).repeat(4, 1)
LABELS = torch.tensor([0, 1, 2, 2])
DELTAS = torch.tensor([[[9.0, 9, 9, 9], [0.5, 0, 0, 0], [0, 3.0, 0, -0.2]]]).repeat(4, 1, 1)
TARGETS = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 3.0, 0, 0]])
CLASSIFICATION = [math.log(8), math.log(4), math.log(1.6), math.log(1.6)]  # 2.08, 1.39, 0.47, 0.47
BOX = [0.0, 0.125, 2.5 + 0.02, 0.02]  # background has none; smooth L1 with beta 1


class Fixed(nn.Module):
    """A head that gives what it was told to, whatever the regions."""

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas = nn.Parameter(logits.clone()), nn.Parameter(deltas.clone())

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits, self.deltas.flatten(1)


class FirstCorner(nn.Module):
    """Pooling that only counts the regions."""

    def forward(self, features: object, boxes: list[Tensor], shapes: object) -> Tensor:
        return torch.cat(boxes)[:, :1]


def heads(predictor: nn.Module, **options: object) -> BoxHeads:
    return BoxHeads(FirstCorner(), nn.Identity(), predictor, **options)  # type: ignore[arg-type]


def test_losses_of_each_region() -> None:
    classification, box = region_losses(LOGITS, DELTAS, LABELS, TARGETS, beta=1.0)
    torch.testing.assert_close(classification, torch.tensor(CLASSIFICATION))
    torch.testing.assert_close(box, torch.tensor(BOX))
    # With torchvision's beta of 1/9 a difference of 0.2 is in the linear part.
    quick = region_losses(LOGITS, DELTAS, LABELS, TARGETS, beta=1 / 9)[1]
    torch.testing.assert_close(quick[3], torch.tensor(0.2 - 0.5 / 9))


@pytest.mark.parametrize(("keep", "expected"), [(1, [1, 4]), (2, [1, 3, 4, 6]), (5, [1, 3, 2, 0, 4, 6, 5])])
def test_the_hardest_of_each_image_are_kept(keep: int, expected: list[int]) -> None:
    losses = torch.tensor([0.1, 0.9, 0.2, 0.8, 5.0, 3.0, 4.0])
    assert hardest(losses, [4, 3], keep).tolist() == expected
    assert hardest(losses, [0, 4, 0, 3], keep).tolist() == expected


def test_the_sum_of_both_losses_ranks_regions() -> None:
    # Sums: 2.08, 1.51, 2.99, 0.49. By classification alone regions 0 and 1 would be kept.
    predictor = Fixed(LOGITS, DELTAS)
    mined = heads(predictor, ohem=2).losses(*predictor(torch.empty(4)), [LABELS], [TARGETS])
    assert mined["loss_classifier"].item() == pytest.approx((CLASSIFICATION[0] + CLASSIFICATION[2]) / 2)
    assert mined["loss_box_reg"].item() == pytest.approx((BOX[0] + BOX[2]) / 2)
    sum(mined.values()).backward()  # type: ignore[union-attr]
    assert predictor.logits.grad.abs().sum(dim=1).gt(0).tolist() == [True, False, True, False]  # type: ignore[union-attr]
    everything = heads(predictor).losses(*predictor(torch.empty(4)), [LABELS], [TARGETS])
    assert everything["loss_classifier"].item() == pytest.approx(sum(CLASSIFICATION) / 4)
    assert everything["loss_box_reg"].item() == pytest.approx(sum(BOX) / 4)


def test_class_agnostic_boxes_have_one_foreground_box() -> None:
    agnostic = torch.stack([torch.full((4, 4), 7.0), TARGETS + 2.0], dim=1)  # (R, 2, 4): background, foreground
    predictor = Fixed(LOGITS, agnostic)
    losses = heads(predictor, class_agnostic=True).losses(*predictor(torch.empty(4)), [LABELS], [TARGETS])
    assert losses["loss_box_reg"].item() == pytest.approx(3 * 4 * 1.5 / 4)  # |2| in smooth L1 is 1.5; three foreground
    losses["loss_box_reg"].backward()
    assert predictor.deltas.grad.ne(0).any(dim=2).tolist() == [[False, False]] + [[False, True]] * 3  # type: ignore[union-attr]


def targets(boxes: list[list[float]], labels: list[int]) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}]


def test_mining_sends_all_proposals_through_the_head() -> None:
    proposals = [torch.rand(200, 2).repeat(1, 2) * 40 + torch.tensor([0.0, 0, 20, 20])]
    truth = targets([[5.0, 5, 30, 30]], [2])
    counts = {}
    for ohem in (None, 8):
        chosen, _, labels, _ = heads(nn.Identity(), ohem=ohem, roi_samples=16).select_training_samples(
            list(proposals), truth
        )
        counts[ohem] = len(chosen[0])
        assert len(labels[0]) == len(chosen[0])
    assert counts == {None: 16, 8: 201}  # the ground-truth box is a proposal too


def test_background_far_from_any_box_is_left_out() -> None:
    # Overlaps with the one box: 1, 1/3, 1/19, 0.
    proposals = [torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [9, 0, 19, 10], [40, 40, 50, 50]])]
    truth = [torch.tensor([[0.0, 0, 10, 10]])]
    labels = heads(nn.Identity(), background_iou=0.1).assign_targets_to_proposals(
        proposals, truth, [torch.tensor([2])]
    )[1]
    assert labels[0].tolist() == [2, 0, -1, -1]
    nothing = heads(nn.Identity(), background_iou=0.1).assign_targets_to_proposals(
        proposals, [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    )[1]
    assert nothing[0].tolist() == [0, 0, 0, 0]


def test_detections_are_class_agnostic_boxes_with_class_scores() -> None:
    predictor = Fixed(LOGITS[:1], torch.tensor([[[0.0, 0, 0, 0], [1.0, 0, 0, 0]]]))
    stage = heads(predictor, class_agnostic=True, thresholds=Thresholds(nms=0.5)).eval()
    found, losses = stage({}, [torch.tensor([[10.0, 10, 30, 20]])], [(50, 60)])
    assert losses == {}
    # A delta of 1 is a tenth of the width, 2 pixels; both classes share the box.
    torch.testing.assert_close(found[0]["boxes"], torch.tensor([[12.0, 10, 32, 20]] * 2))
    assert found[0]["labels"].tolist() == [2, 1]
    torch.testing.assert_close(found[0]["scores"], torch.tensor([5 / 8, 2 / 8]))


def test_mining_keeps_the_losses_of_the_pyramids_detector() -> None:
    """With as many hard examples as proposals, both are torchvision's, over all proposals."""
    torch.manual_seed(0)
    options = {"min_size": 64, "fpn_channels": 16, "head_channels": 16, "roi_samples": 2100}
    plain = build(faster_rcnn, 3, **options).train()
    mined = build(faster_rcnn, 3, ohem=3000, **options).train()
    mined.load_state_dict(plain.state_dict())
    plain.roi_heads.fg_bg_sampler.positive_fraction = 1.0
    losses = []
    for model in (plain, mined):
        torch.manual_seed(1)
        losses.append(model([PICTURE], [TRUTH]))
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss)


def test_an_image_without_regions_gives_losses_of_zero() -> None:
    predictor = Fixed(torch.zeros(0, 3), torch.zeros(0, 3, 4))
    empty = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4)]
    losses = heads(predictor, ohem=4).losses(*predictor(torch.empty(0)), *empty)
    assert {name: value.item() for name, value in losses.items()} == {"loss_classifier": 0.0, "loss_box_reg": 0.0}


def test_refused_arguments() -> None:
    message = (
        "background_iou: must be 0 or more and below 0.5, from which a region is foreground; got 0.6; the official"
    )
    with pytest.raises(PliantError, match=message):
        heads(nn.Identity(), background_iou=0.6)
    with pytest.raises(PliantError, match=r"ohem: must be at least 1; got 0; use 128 \(official R-FCN\), or None"):
        heads(nn.Identity(), ohem=0)
