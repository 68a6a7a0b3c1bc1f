# SPDX-License-Identifier: Apache-2.0
"""Pictures of label maps and of rankings: in the colours of classes, with names to be read at any size."""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import pytest
import torch
from torch import Tensor

from pliant.analysis import class_colour, draw_labels, draw_ranking
from pliant.analysis.label_places import place_around
from pliant.data import read_image

NAMES = {1: "road", 2: "tree", 3: "sky"}
SIZES = [(225, 300, 900), (700, 1000, 1000), (2250, 3000, 3000)]  # of the image, and the picture's width


def like(picture: Tensor, label: int) -> Tensor:
    """Where a picture (3, H, W) has about the colour of a class."""
    colour = 255 * torch.tensor(class_colour(label))[:, None, None]
    return (picture.float() - colour).abs().amax(0) < 6


def columns_of(picture: Tensor, label: int) -> int:
    """The most pixels of a row that have the colour of a class."""
    return int(like(picture, label).sum(1).max())


def test_names_stand_at_their_points_or_next_to_them() -> None:
    places = place_around([(50.0, 50.0)] * 4, [(30.0, 8.0)] * 4, (100.0, 100.0))
    assert [place and (place.x, place.y) for place in places] == [(35, 46), (35, 54), (35, 38), None]
    [corner] = place_around([(99.0, 1.0)], [(30.0, 8.0)], (100.0, 100.0))
    assert corner is not None and (corner.x, corner.y) == (70, 0)


@pytest.mark.parametrize(("height", "width", "drawn"), SIZES)
def test_regions_are_tinted_named_in_the_middle_and_in_the_legend(
    tmp_path: Path, height: int, width: int, drawn: int
) -> None:
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[height // 3 :, width // 2 :] = 2
    labels[: height // 5] = 255
    draw_labels(torch.full((3, height, width), 20, dtype=torch.uint8), labels, tmp_path / "a.png", names=NAMES)
    picture = read_image(tmp_path / "a.png")
    rows = round(height * drawn / width)
    assert picture.shape[2] == drawn
    assert 0.02 * rows < picture.shape[1] - rows < 0.2 * rows  # the legend
    assert like(picture[:, rows:], 2).sum() > (0.005 * drawn) ** 2
    tint = 0.4 * 255 * torch.tensor(class_colour(2)) + 0.6 * 20
    assert (picture[:, round(0.4 * rows), round(0.55 * drawn)] - tint).abs().max() < 2
    # What is no region has the photograph's pixels: the background and what is ignored.
    assert (picture[:, : round(0.9 * rows), : round(0.48 * drawn)] == 20).all()
    assert (picture[:, : round(0.18 * rows)] == 20).all()
    # The name, on a ground of the colour, about the middle of the region.
    middle = picture[:, round(0.6 * rows) : round(0.74 * rows), round(0.6 * drawn) : round(0.9 * drawn)]
    assert 0.03 * drawn < columns_of(middle, 2) < 0.2 * drawn


def test_a_name_stands_inside_a_bent_region(tmp_path: Path) -> None:
    labels = torch.zeros(600, 900, dtype=torch.uint8)
    labels[:, :120] = 1  # with the next, an L whose mean is no part of it
    labels[450:] = 1
    draw_labels(torch.zeros(3, 600, 900, dtype=torch.uint8), labels, tmp_path / "bent.png", names=NAMES)
    picture = read_image(tmp_path / "bent.png")
    assert not picture[:, :440, 130:].any()
    assert columns_of(picture[:, 470:580, 20:880], 1) > 20


def test_a_region_without_room_for_its_name_is_counted(tmp_path: Path) -> None:
    labels = torch.zeros(600, 900, dtype=torch.uint8)
    for label in range(1, 7):
        labels[300:306, 400 + 6 * label : 406 + 6 * label] = label
    many, few = tmp_path / "many.png", tmp_path / "few.png"
    names = dict.fromkeys(range(1, 7), "a")
    image = torch.zeros(3, 600, 900, dtype=torch.uint8)
    draw_labels(image, labels, many, names=names)
    assert sum(columns_of(read_image(many)[:, :600], label) > 8 for label in range(1, 7)) < 6
    draw_labels(image, torch.where(labels > 1, 0, labels), few, names=names)
    assert read_image(few).shape[1] < read_image(many).shape[1]


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_a_map_of_background_says_that_nothing_was_found(tmp_path: Path, style: str) -> None:
    image = torch.full((3, 600, 900), 9, dtype=torch.uint8)
    with matplotlib.style.context(style):  # whatever a program sets for its own figures
        draw_labels(image, torch.zeros(600, 900, dtype=torch.uint8), tmp_path / "none.png", names=NAMES)
    picture = read_image(tmp_path / "none.png")
    assert torch.equal(picture[:, :600], image)
    assert (picture[:, 600:] < 100).any() and (picture[:, 600:] == 255).any()


@pytest.mark.parametrize(("height", "width", "drawn"), SIZES)
def test_a_bar_is_as_long_as_the_score(tmp_path: Path, height: int, width: int, drawn: int) -> None:
    image = torch.full((3, height, width), 20, dtype=torch.uint8)
    draw_ranking(image, [2, 1], [0.75, 0.2], tmp_path / "r.png", names=NAMES)
    picture = read_image(tmp_path / "r.png")
    rows = round(height * drawn / width)
    assert (picture[:, :rows] == 20).all()
    below = picture[:, rows:]
    assert picture.shape[2] == drawn and 0.05 * rows < below.shape[1] < 0.3 * rows
    assert columns_of(below, 2) == pytest.approx(0.75 * drawn, rel=0.03)
    assert columns_of(below, 1) == pytest.approx(0.2 * drawn, rel=0.03)
    first, second = (like(below, label).any(1).nonzero().flatten() for label in (2, 1))
    assert first.max() < second.min()
    assert ((below < 90).all(0).any(1).sum()) > 0.012 * drawn  # letters, as high as in a picture of any size


def test_a_stripe_is_widened_for_the_names_below_it(tmp_path: Path) -> None:
    image = torch.full((3, 1200, 100), 20, dtype=torch.uint8)
    names = {1: "a name that is wider than the image"}
    for path in (tmp_path / "ranking.png", tmp_path / "labels.png"):
        if path.stem == "ranking":
            draw_ranking(image, [1], [0.5], path, names=names)
        else:
            draw_labels(image, torch.ones(1200, 100, dtype=torch.uint8), path, names=names)
        picture = read_image(path)
        assert picture.shape[2] > 200
        assert (picture[:, :1200, 110:] == 255).all()
        assert (picture[:, 1200:, 110:-5] < 90).any()
        assert (picture[:, :, -3:] > 200).all()  # nothing is cut off
