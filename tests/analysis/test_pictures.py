# SPDX-License-Identifier: Apache-2.0
"""Pictures of detections: colours that stay, labels that are all read, and the photograph's own pixels."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pliant.analysis import class_colour, draw_detections
from pliant.analysis.label_places import Place, place_labels
from pliant.data import read_image

NAMES = {1: "oak", 2: "elm"}


def test_thirty_classes_have_colours_of_their_own() -> None:
    colours = torch.tensor([class_colour(label) for label in range(30)])
    apart = (colours[:, None] - colours).abs().amax(-1) + torch.eye(30)
    assert apart.min() > 0.1
    assert class_colour(33) == class_colour(3) != class_colour(13)


def overlap(one: Place, other: Place) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


def test_labels_take_the_next_free_corner() -> None:
    box = (20.0, 50.0, 80.0, 90.0)
    found = place_labels([box] * 5, [[(40.0, 10.0)]] * 5, (100.0, 200.0))
    # Above left; the right corner is taken up by it, so below, then inside at the top and at the bottom.
    assert [place and (place[1].x, place[1].y) for place in found[:4]] == [(20, 40), (20, 90), (20, 50), (20, 80)]
    assert found[4] == (0, Place(20, 60, 40, 10))  # along the side
    wide = [(120.0, 10.0), (40.0, 10.0)]
    assert place_labels([box], [wide], (100.0, 200.0)) == [(1, Place(20, 40, 40, 10))]  # wider than the picture
    [top] = place_labels([(20.0, 3.0, 95.0, 90.0)], [[(40.0, 10.0)]], (100.0, 200.0))
    assert top == (0, Place(20, 0, 40, 10))  # moved into the picture


def test_labels_of_a_crowd_stay_inside_and_none_hides_another() -> None:
    random = torch.Generator().manual_seed(4)
    corners = torch.rand(120, 2, generator=random) * 250
    boxes = torch.cat([corners, corners + 20 + 60 * torch.rand(120, 2, generator=random)], 1).tolist()
    found = place_labels(boxes, [[(70.0, 14.0), (30.0, 14.0)]] * 120, (320.0, 330.0))
    places = [place for place in found if place is not None]
    assert 60 < len(places) < 120
    assert {text for text, _ in places} == {0, 1}
    assert all(p.x >= 0 and p.x + p.width <= 320 and p.y >= 0 and p.y + p.height <= 330 for _, p in places)
    assert not any(overlap(a, b) for (_, a), (_, b) in itertools.combinations(places, 2))


def share(picture: Tensor, label: int) -> float:
    """The share of pixels that have about the colour of a class."""
    colour = 255 * torch.tensor(class_colour(label))[:, None, None]
    return ((picture - colour).abs().amax(0) < 6).float().mean().item()


@pytest.mark.parametrize(("height", "width", "drawn"), [(150, 200, 900), (700, 1000, 1000), (3000, 5000, 4096)])
def test_a_picture_has_the_photographs_pixels_and_a_legend(tmp_path: Path, height: int, width: int, drawn: int) -> None:
    image = (torch.arange(width) * 200 // width).to(torch.uint8).expand(3, height, width).contiguous()
    box = torch.tensor([[0.3 * width, 0.4 * height, 0.6 * width, 0.9 * height]])
    path = tmp_path / "found.png"
    draw_detections(image, box, [2], path, names=NAMES, scores=[0.91], min_score=0.5)
    picture = read_image(path).float()
    assert picture.shape[2] == pytest.approx(drawn, abs=1)
    rows = round(height * drawn / width)
    assert 0.02 * rows < picture.shape[1] - rows < 0.2 * rows  # the legend
    assert share(picture[:, :rows], 2) > 0.001
    if width == 1000:
        assert torch.equal(picture[:, 20, 700:990], image[:, 20, 700:990].float())
        # The frame: a line around the box, and the label above it.
        inside = picture[:, round(0.4 * height) - 4 : round(0.9 * height) + 4, 296:604]
        assert share(inside, 2) > 0.01
        assert share(picture[:, : round(0.3 * height)], 2) == 0


def test_masks_are_tinted_with_a_line_around_them(tmp_path: Path) -> None:
    image = torch.full((3, 600, 900), 20, dtype=torch.uint8)
    masks = torch.zeros(2, 600, 900, dtype=torch.bool)
    masks[0, 100:300, 200:500] = True
    boxes = torch.tensor([[150.0, 50, 550, 350], [600, 400, 700, 500]])
    draw_detections(image, boxes, [1, 2], tmp_path / "masks.png", names=NAMES, masks=masks)
    picture = read_image(tmp_path / "masks.png").float()
    tint = 0.4 * 255 * torch.tensor(class_colour(1)) + 0.6 * 20
    assert (picture[:, 200, 350] - tint).abs().max() < 2
    line = 255 * torch.tensor(class_colour(1))  # both opacities of the line's pixels add up
    assert (picture[:, 200, 200] - line).abs().max() < 2
    assert (picture[:, 200, 199] - 20).abs().max() == 0
    assert (picture[:, 450, 650] - 20).abs().max() == 0  # an empty mask


def test_a_picture_without_detections_says_so(tmp_path: Path) -> None:
    image = torch.zeros(3, 600, 900, dtype=torch.uint8)
    draw_detections(image, torch.zeros(0, 4), [], tmp_path / "none.png", names=NAMES, scores=[], min_score=0.5)
    picture = read_image(tmp_path / "none.png")
    assert picture.shape[1] > 610
    assert not picture[:, :600].any()
