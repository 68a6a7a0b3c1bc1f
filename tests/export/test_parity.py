# SPDX-License-Identifier: Apache-2.0
"""What counts as a difference between a file's outputs and a model's, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pliant.export import Difference, differences

BOXES = torch.tensor([[10.0, 20, 50, 80], [60, 10, 90, 40], [5, 5, 20, 30], [0, 0, 9, 9]])
DETECTIONS = {"boxes": BOXES, "labels": torch.tensor([1, 2, 1, 3]), "scores": torch.tensor([0.9, 0.6, 0.3, 0.01])}


def changed(name: str, row: int, value: float) -> dict[str, Tensor]:
    """The detections with one entry moved by `value`."""
    got = {key: tensor.clone() for key, tensor in DETECTIONS.items()}
    got[name].view(4, -1)[row, 0] += torch.tensor(value).to(got[name].dtype)
    return got


def share_alone(got: dict[str, Tensor]) -> float:
    [difference] = differences(got, DETECTIONS)
    assert difference.output == "detections"
    return difference.value


def test_detections_may_stand_in_any_order_and_move_a_little() -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert share_alone({name: value[order] for name, value in DETECTIONS.items()}) == 0
    assert share_alone(changed("boxes", 0, 0.9)) == 0
    assert share_alone(changed("boxes", 3, 5.0)) == 0  # its score is below 0.05


@pytest.mark.parametrize(("name", "value"), [("boxes", 1.5), ("labels", 1), ("scores", -0.02)])
def test_a_detection_without_a_partner_counts_on_either_side(name: str, value: float) -> None:
    assert share_alone(changed(name, 1, value)) == pytest.approx(2 / 6)


def test_a_missing_detection_counts_once() -> None:
    assert share_alone({name: tensor[1:] for name, tensor in DETECTIONS.items()}) == pytest.approx(1 / 5)
    assert share_alone({name: tensor[:0] for name, tensor in DETECTIONS.items()}) == 1


def test_masks_of_partners_are_compared_where_either_is_set() -> None:
    masks = torch.zeros(4, 1, 6, 7)
    masks[0, 0, :2, :3] = 0.9  # 6 pixels
    masks[1, 0, 3:, 2:4] = 0.6  # 6 pixels
    got_masks = masks.clone()
    got_masks[1, 0, 3, 2] = 0.4  # one of them less
    got_masks[3] = 1.0  # of a detection that does not count
    order = torch.tensor([1, 0, 2, 3])
    got = {name: value[order] for name, value in {**DETECTIONS, "masks": got_masks}.items()}
    _, difference = differences(got, {**DETECTIONS, "masks": masks})
    assert (difference.output, difference.value, difference.compared) == ("masks", 1 / 12, 12)
    assert not difference.passes


def test_labels_and_numbers() -> None:
    labels = torch.arange(12).view(3, 4)
    [difference] = differences({"labels": labels.clamp(min=2)}, {"labels": labels})
    assert (difference.value, difference.compared, difference.passes) == (2 / 12, 12, False)
    [difference] = differences({"labels": labels[:2]}, {"labels": labels})
    assert difference.value == 1
    [difference] = differences({"y": torch.tensor([1.0, -4.004])}, {"y": torch.tensor([1.0, -4.0])})
    assert difference.value == pytest.approx(1e-3, rel=1e-3)
    [difference] = differences({"y": torch.tensor([float("nan"), 1.0])}, {"y": torch.ones(2)})
    assert not difference.passes
    [difference] = differences({"y": torch.ones(1)}, {"y": torch.ones(2)})
    assert difference.value == float("inf")
    assert (
        str(Difference("y", "labels that differ", 0.25, 0.001, 8)) == "y: labels that differ 0.25 of 8, at most 0.001"
    )
