# SPDX-License-Identifier: Apache-2.0
"""The data set in use: images found broken while training, worker processes, and the cache."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.data_sets import HEIGHT, WIDTH, Make, cut
from pliant.data import Problem, UnreadableImageError, collate, open_detection, read_image
from pliant.data.image_dataset import PixelCache

BOXES = [{"bbox": [i, 2, 3, 4], "image_id": 10 * i} for i in (1, 2, 3, 4)]


@pytest.fixture
def with_broken(make_coco: Make) -> Path:
    """Four images; the bodies of the second and the fourth are cut off, their headers are whole."""
    root = make_coco(BOXES)
    for name in ("2.jpg", "4.jpg"):
        cut(root / "train2017" / name)
    return root


def test_a_broken_image_is_replaced_by_the_next_one_named_once_and_counted(
    with_broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_detection(with_broken, "train")
    assert dataset.report.count() == 0
    with caplog.at_level(logging.WARNING):
        seen = [[dataset[i][1]["image_id"].item() for i in range(4)] for _ in range(2)]
    assert seen == [[10, 30, 30, 10]] * 2
    assert torch.equal(dataset[1][0], dataset[2][0])
    assert dataset[1][1]["boxes"].tolist() == [[3, 2, 6, 6]]
    assert [record.getMessage()[:5] for record in caplog.records] == ["2.jpg", "4.jpg"]
    assert dataset.report.summary() == [
        "images found broken while reading: 2, replaced by the next image (2.jpg; 4.jpg)"
    ]


# A spawned process imports PyTorch anew, which takes seconds.
@pytest.mark.parametrize(("start", "workers"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_what_workers_find_broken_is_known_to_the_process_that_reports(
    with_broken: Path, start: str, workers: int
) -> None:
    dataset = open_detection(with_broken, "train")
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=collate, multiprocessing_context=start)
    ids = [target["image_id"].item() for _, targets in loader for target in targets]
    assert ids == [10, 30, 30, 10]
    assert dataset.report.names(Problem.BROKEN_PIXELS) == ["2.jpg", "4.jpg"]


def test_decoding_at_the_start_leaves_broken_images_out(with_broken: Path) -> None:
    calls: list[tuple[int, int]] = []
    dataset = open_detection(with_broken, "train", verify="pixels", progress=lambda *call: calls.append(call))
    assert [dataset.image_info(i).id for i in range(len(dataset))] == [10, 30]
    assert dataset.report.count(Problem.UNREADABLE_IMAGE) == dataset.report.count() == 2
    assert [image["id"] for image in dataset.coco_ground_truth()["images"]] == [10, 30]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_strict_refuses_a_broken_image_when_it_is_read(with_broken: Path) -> None:
    dataset = open_detection(with_broken, "train", strict=True)
    with pytest.raises(UnreadableImageError, match=r"2\.jpg; it is broken: .*truncated"):
        dataset[1]


def test_no_readable_image_at_all_is_an_error(make_coco: Make) -> None:
    root = make_coco()
    dataset = open_detection(root, "train")
    for path in (root / "train2017").iterdir():
        cut(path)
    with pytest.raises(UnreadableImageError, match="must have an image that can be read; got none"):
        dataset[0]


def test_indices_are_those_of_a_sequence(make_coco: Make) -> None:
    dataset = open_detection(make_coco(BOXES), "train")
    assert dataset[-1][1]["image_id"].item() == 40
    with pytest.raises(IndexError, match="index: must be from -4 to 3; got 4"):
        dataset[4]
    assert sum(1 for _ in dataset) == 4


def test_the_cache_keeps_to_its_budget_and_spares_decoding(make_coco: Make) -> None:
    size = 3 * WIDTH * HEIGHT
    root = make_coco(BOXES)
    dataset = open_detection(root, "train", cache_bytes=2 * size + 1)
    before = [dataset[i][0].clone() for i in range(4)]
    for i in (1, 2):
        assert torch.equal(before[i - 1], read_image(root / "train2017" / f"{i}.jpg"))
        (root / "train2017" / f"{i}.jpg").unlink()
    assert all(torch.equal(dataset[i][0], before[i]) for i in range(4))
    (root / "train2017" / "3.jpg").unlink()
    assert dataset[2][1]["image_id"].item() == 40
    cache = PixelCache(size - 1)
    cache.put(0, before[0])
    assert cache.get(0) is None


def test_a_transform_that_writes_into_its_input_does_not_reach_the_data(make_coco: Make) -> None:
    dataset = open_detection(make_coco(BOXES), "train")
    clean = dataset[0][0].clone(), dataset[0][1]["labels"].clone()

    def spoil(image: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for name in ("labels", "boxes", "area", "iscrowd"):
            target[name].zero_()
        return image.zero_(), target

    assert dataset.with_transforms(spoil)[0][0].sum() == 0
    assert torch.equal(dataset[0][0], clean[0])
    assert torch.equal(dataset[0][1]["labels"], clean[1])
    assert dataset[0][1]["area"].tolist() == [12]
