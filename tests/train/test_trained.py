# SPDX-License-Identifier: Apache-2.0
"""`pliant.load`: a run folder as a model in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pliant
from helpers.runs import DETECTOR, write_run
from pliant._check import PliantError
from pliant.train.trained import TrainedModel

PIXELS = np.random.default_rng(3).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return pliant.load(write_run(tmp_path_factory.mktemp("run"), **DETECTOR), device="cpu")


def test_one_image_in_every_form_gives_the_same(model: TrainedModel, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    forms = [str(tmp_path / "photo.png"), Image.fromarray(PIXELS), PIXELS, tensor, tensor.float() / 255]
    first, *others = model.predict(forms)
    assert len(first["boxes"]) > 0
    assert set(first.output) == {"boxes", "labels", "scores"}
    assert torch.equal(first.image, tensor)
    assert first.names == {1: "oak", 2: "elm & ash"}
    assert {record["category_id"] for record in first.records()} <= {1, 2}
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in first.output.items())
    single = model.predict(tmp_path / "photo.png")
    assert torch.equal(single["scores"], first["scores"])


def test_pictures(model: TrainedModel, tmp_path: Path) -> None:
    result = model.predict(PIXELS)
    drawn = np.asarray(result.draw(tmp_path / "found.png", min_score=0.0))
    bare = np.asarray(result.draw(min_score=1.0))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "found.png").convert("RGB")), drawn)
    assert drawn.shape == bare.shape
    assert not np.array_equal(drawn, bare)


def test_what_is_no_image_is_refused(model: TrainedModel) -> None:
    rule = "images: must be a path, a PIL image, a uint8 array .H, W, 3. or a tensor .3, H, W.; got "
    for wrong, got in ((torch.zeros(2, 3, 8, 9), "a tensor"), (PIXELS.astype(float), "ndarray"), (7, "int")):
        with pytest.raises(PliantError, match=rule + got):
            model.predict(wrong)
    with pytest.raises(PliantError, match="run"):
        pliant.load("nowhere")


def test_the_model_says_what_it_is(model: TrainedModel) -> None:
    assert repr(model) == "TrainedModel(faster-rcnn, 2 categories: oak, elm & ash, on cpu)"
