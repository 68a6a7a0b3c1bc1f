# SPDX-License-Identifier: Apache-2.0
"""How detectors predict: several sizes, mirror images, tiles, soft suppression, averages; on every detector."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from pliant.detection import Thresholds, set_thresholds, thresholds
from pliant.inference import candidates, has_masks, mask_cells, with_masks
from pliant.train import TrainConfig
from pliant.train.model import build_model
from pliant.train.tasks import task_of

TINY = {"data": ".", "backbone": "resnet18", "min_size": [64], "max_size": 96, "score_threshold": 0.3}
MODELS = ("faster-rcnn", "faster-rcnn-dc5", "rfcn", "class-aware-rpn", "mask-rcnn", "mask-rcnn-dc5")


def _build(model: str, **changed: Any) -> tuple[nn.Module, TrainConfig]:
    """A detector with random weights which finds something: its two classes are nearly as likely as the background."""
    config = TrainConfig.from_dict({**TINY, "model": model, **changed})
    torch.manual_seed(0)
    return build_model(config, 2).eval(), config


def _images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, 60, 80, generator=generator), torch.rand(3, 90, 64, generator=generator)]


def _detect(model: nn.Module, config: TrainConfig) -> list[dict[str, Tensor]]:
    """Image by image: of two together the smaller one is padded, which changes what is found a little."""
    predict = task_of(config).predictor(model, config)
    with torch.no_grad():
        return [predict([image])[0] for image in _images()]


@pytest.mark.parametrize("name", MODELS)
def test_a_single_view_put_together_is_what_the_detector_gives(name: str) -> None:
    few = {"max_detections": 12, "proposals": 100} if name != "class-aware-rpn" else {"max_detections": 12}
    model, config = _build(name, **few)
    plain = _detect(model, config)
    assert all(len(output["boxes"]) > 1 for output in plain)
    again = _detect(*_build(name, **few, test_scales=[64]))
    for ours, theirs in zip(again, plain, strict=True):
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["boxes"], theirs["boxes"])
        torch.testing.assert_close(ours["scores"], theirs["scores"])
        assert ours.keys() == theirs.keys()
        if "cells" in theirs:  # made again for the boxes in pixels of the image, which rounds them
            assert ours["cells"].shape == theirs["cells"].shape and ours["size"].tolist() == theirs["size"].tolist()
            assert (ours["cells"] - theirs["cells"]).abs().mean() < 1e-3 < theirs["cells"].mean()


def test_masks_in_parts_are_those_that_the_detector_pastes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = _build("mask-rcnn", max_detections=7, proposals=50)
    with torch.no_grad():
        expected = [model([image])[0] for image in _images()]
    monkeypatch.setattr("pliant.inference.masks._PASTED_VALUES", 60 * 80 * 3)  # three masks of the first image at once
    for output, own in zip(_detect(model, config), expected, strict=True):
        parts = list(with_masks(output))
        assert len(parts) > 1 and len(parts[0]["boxes"]) == 3 * 60 * 80 // math.prod(output["size"].tolist())
        assert torch.equal(torch.cat([part["masks"] for part in parts]), own["masks"])
        assert torch.equal(torch.cat([part["scores"] for part in parts]), own["scores"])
    with torch.no_grad():
        assert "masks" in model(_images())[0]  # called by itself the detector still pastes


@pytest.mark.parametrize("name", ["faster-rcnn", "mask-rcnn"])
def test_tiles_find_what_the_detector_finds_on_each_window(name: str) -> None:
    """Two windows of 64 x 60 on 60 x 100, worked out here: shifted, cut ones left out, suppressed, masked."""
    model, _ = _build(name)
    config = _build(name, tile=64)[1]
    image = torch.rand(3, 60, 100, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        (found,) = task_of(config).predictor(model, config)([image])
        left, right = (candidates(model, [crop])[0] for crop in (image[:, :, :64], image[:, :, 36:]))
    widths = [output["boxes"][:, 2] - output["boxes"][:, 0] for output in (left, right)]
    keep_left = ~((left["boxes"][:, 2] >= 62) & (widths[0] < 16))
    keep_right = ~((right["boxes"][:, 0] <= 2) & (widths[1] < 16))
    shifted = right["boxes"][keep_right] + torch.tensor([36.0, 0, 36, 0])
    boxes = torch.cat([left["boxes"][keep_left], shifted])
    scores = torch.cat([left["scores"][keep_left], right["scores"][keep_right]])
    labels = torch.cat([left["labels"][keep_left], right["labels"][keep_right]])
    kept = batched_nms(boxes, scores, labels, 0.5)[:100]
    assert 0 < int((kept < keep_left.sum()).sum()) < len(kept)  # some of either window
    assert torch.equal(found["boxes"], boxes[kept]) and torch.equal(found["labels"], labels[kept])
    assert has_masks(model) == ("cells" in found)
    if "cells" in found:
        of_right = kept >= keep_left.sum()
        with torch.no_grad():
            own = boxes[kept][of_right] - torch.tensor([36.0, 0, 36, 0])
            cells = mask_cells(model, image[:, :, 36:], own, labels[kept][of_right])
        assert torch.equal(found["cells"][of_right], cells)


def test_candidates_are_all_that_is_scored_and_leave_the_detector_as_it_was() -> None:
    model, _ = _build("faster-rcnn")
    before, sizes = thresholds(model), (model.transform.min_size, model.transform.max_size)
    set_thresholds(model, Thresholds(score=0.3, nms=0.5, detections=5))
    with torch.no_grad():
        every = candidates(model, _images(), size=(96, 128))
        found = model(_images())
    assert thresholds(model) == Thresholds(score=0.3, nms=0.5, detections=5)
    assert (model.transform.min_size, model.transform.max_size) == sizes
    assert [len(output["boxes"]) for output in found] == [5, 5]
    assert all(len(output["boxes"]) > 50 for output in every)
    assert before.detections == 100


def test_boxes_of_the_mirror_image_are_turned_back() -> None:
    model, _ = _build("faster-rcnn")
    image = _images()[0]
    with torch.no_grad():
        (turned,) = candidates(model, [image.flip(-1)], flip=True)
        (plain,) = candidates(model, [image])
    # The mirror image of the mirror image: what is found is the same, from right to left.
    expected = plain["boxes"][:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([80.0, 0, 80, 0])
    torch.testing.assert_close(turned["boxes"], expected)


def test_several_sizes_and_mirror_images_add_boxes() -> None:
    wide = {"max_detections": 400, "proposals": 40}
    one = _detect(*_build("faster-rcnn", **wide))
    many = _detect(*_build("faster-rcnn", **wide, test_scales=[64, 96], test_flip=True))
    for few, more in zip(one, many, strict=True):
        assert len(few["boxes"]) < len(more["boxes"]) <= 400
        assert more["scores"].tolist() == sorted(more["scores"].tolist(), reverse=True)


def test_averaging_moves_boxes_and_nothing_else() -> None:
    plain = _detect(*_build("faster-rcnn"))
    moved = _detect(*_build("faster-rcnn", box_averaging=1))
    for ours, theirs in zip(moved, plain, strict=True):
        torch.testing.assert_close(ours["scores"], theirs["scores"])
        assert torch.equal(ours["labels"], theirs["labels"])
        assert not torch.allclose(ours["boxes"], theirs["boxes"])


def test_the_long_side_grows_with_the_size_unless_it_is_said() -> None:
    seen: list[tuple[int, ...]] = []
    model, config = _build("faster-rcnn", test_scales=[32, 64])
    model.backbone.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape[-2:])))
    image = torch.rand(3, 60, 300)
    with torch.no_grad():
        task_of(config).predictor(model, config)([image])
        limited = TrainConfig.from_dict({**TINY, "test_scales": [32, 64], "test_max_size": 32})
        task_of(limited).predictor(model, limited)([image])
    assert seen == [(32, 64), (32, 96), (32, 32), (32, 32)]  # 32/64 of 96, 96; both 32; in multiples of 32
