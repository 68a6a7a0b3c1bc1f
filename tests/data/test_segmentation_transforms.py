# SPDX-License-Identifier: Apache-2.0
"""Images and label maps change together, exactly: what a pixel shows and what it is called never part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from pliant.data import segmentation_transforms
from pliant.data.segmentation.transforms import RandomScale, resize_labels

MEAN = (124, 116, 104)


def sample(height: int, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """An image whose red is its label; green and blue tell the row and the column."""
    labels = (torch.arange(height * width) * 7 % 100).reshape(height, width).to(torch.uint8)
    rows = torch.arange(height)[:, None].expand(-1, width).to(torch.uint8)
    columns = torch.arange(width)[None].expand(height, -1).to(torch.uint8)
    return Image(torch.stack((labels, rows, columns))), {"labels_map": Mask(labels), "image_id": torch.tensor(3)}


def applied(height: int, width: int, seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    image, target = segmentation_transforms(**options)(*sample(height, width))
    assert type(image) is Tensor
    assert type(target["labels_map"]) is Tensor
    assert (image.dtype, target["labels_map"].dtype, target["image_id"].item()) == (torch.float32, torch.uint8, 3)
    return (image * 255).round().to(torch.uint8), target["labels_map"]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    crop=st.none() | st.tuples(st.integers(1, 12), st.integers(1, 12)),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    vertical_flip=st.sampled_from([0.0, 0.5, 1.0]),
    rotate90=st.booleans(),
)
def test_flips_crops_and_quarter_turns_keep_every_pixel_with_its_label(
    seed: int, crop: tuple[int, int] | None, flip: float, vertical_flip: float, rotate90: bool
) -> None:
    options = {"crop": crop, "flip": flip, "vertical_flip": vertical_flip, "rotate90": rotate90}
    image, labels = applied(7, 9, seed, **options)
    if crop and not rotate90:
        assert labels.shape == crop
    inside = labels != 255
    assert torch.equal(image[0][inside], labels[inside])
    assert (image[:, ~inside] == torch.tensor(MEAN, dtype=torch.uint8)[:, None]).all()
    # Nothing comes twice: the places that green and blue tell are all different.
    places = image[1][inside].int() * 100 + image[2][inside].int()
    assert len(places.unique()) == len(places) > 0
    if crop is None:
        assert len(places) == 63


def test_flips_and_turns_do_what_they_are_called() -> None:
    image, target = sample(7, 9)
    labels = target["labels_map"].as_subclass(Tensor)
    assert torch.equal(applied(7, 9, 0, flip=1.0)[1], labels.flip(1))
    assert torch.equal(applied(7, 9, 0, flip=0.0, vertical_flip=1.0)[1], labels.flip(0))
    turns = [labels.rot90(k) for k in range(4)]
    seen = {next(k for k, t in enumerate(turns) if torch.equal(t, applied(7, 9, seed, flip=0.0, rotate90=True)[1]))
            for seed in range(40)}  # fmt: skip
    assert seen == {0, 1, 2, 3}
    assert torch.equal(image, sample(7, 9)[0])


def test_turning_by_angles_mixes_no_labels_and_ignores_what_comes_from_outside() -> None:
    image, labels = applied(41, 61, 1, flip=0.0, rotate=40.0)
    assert set(labels.unique().tolist()) <= {*range(100), 255}
    assert (labels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert (image[:, 0, 0] == torch.tensor(MEAN)).all()
    # Rows are told by green, bilinear: a label from row r lies where green is within a pixel of r.
    rows = torch.full((100,), -1.0)
    original = sample(41, 61)[1]["labels_map"].as_subclass(Tensor)
    unique = [value for value in range(100) if (original == value).sum() == 1]
    for value in unique:
        rows[value] = float((original == value).nonzero()[0, 0])
    centre = labels[15:26, 25:36]
    known = torch.isin(centre, torch.tensor(unique, dtype=torch.uint8))
    assert ((image[1, 15:26, 25:36][known].float() - rows[centre[known].long()]).abs() <= 1.01).all()


def test_resized_labels_lie_where_the_resized_image_shows_them() -> None:
    step = torch.zeros(1, 40, dtype=torch.uint8)
    step[:, 20:] = 200
    image = Image(step.expand(3, 10, 40).contiguous())
    for factor in (0.4, 0.75, 1.5, 2.3):
        scaled, target = RandomScale(factor, factor)(image, {"labels_map": Mask(step.expand(10, 40).contiguous())})
        labels = target["labels_map"].as_subclass(Tensor)
        assert scaled.shape[-2:] == labels.shape == (round(10 * factor), round(40 * factor))
        assert set(labels.unique().tolist()) == {0, 200}
        assert torch.equal(labels > 0, scaled[0].as_subclass(Tensor) >= 100)


def test_labels_are_picked_from_the_nearest_centre() -> None:
    labels = torch.arange(6, dtype=torch.uint8)[None]
    assert resize_labels(labels, (2, 12)).tolist() == [[k // 2 for k in range(12)]] * 2
    # Centres of three cells of two pixels lie between pixels 0|1, 2|3, 4|5; of two cells of three in pixels 1 and 4.
    assert resize_labels(labels, (1, 2)).tolist() == [[1, 4]]


def test_one_seed_gives_one_sample_and_photometric_changes_leave_labels_alone() -> None:
    options: dict[str, Any] = {"scale": (0.5, 2.0), "rotate": 20.0, "crop": (8, 6), "photometric": True}
    first, again, other = (applied(20, 30, seed, **options) for seed in (4, 4, 5))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(applied(7, 9, 2, flip=0.0, photometric=True)[1], sample(7, 9)[1]["labels_map"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"flip: must be a probability in \[0, 1\]; got 1.5"),
        ({"rotate": 200.0}, "rotate: must be an angle from 0 to 180 degrees; got 200"),
        ({"crop": (0, 4)}, r"crop: must be a height and a width in pixels; got \(0, 4\)"),
        ({"scale": (2.0, 1.0)}, r"scale: must be two rising positive factors; got \(2.0, 1.0\)"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmentation_transforms(**options)
