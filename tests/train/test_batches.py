# SPDX-License-Identifier: Apache-2.0
"""Which images a step holds, how processes share them, and what their augmentation depends on."""

from __future__ import annotations

import pytest
import torch

from pliant._check import PliantError
from pliant.train import TrainConfig
from pliant.train.batches import SeededDataset, epoch_steps, own_parts
from pliant.train.processes import batches_of_step


def test_each_epoch_holds_every_image_once_in_another_order() -> None:
    orders = [[i for step in epoch_steps(11, 3, 1, seed=4, epoch=e) for b in step for i, _ in b] for e in range(3)]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert epoch_steps(11, 3, 1, seed=4, epoch=1) == epoch_steps(11, 3, 1, seed=4, epoch=1)
    assert epoch_steps(11, 3, 1, seed=4, epoch=1) != epoch_steps(11, 3, 1, seed=5, epoch=1)


def test_steps_cut_the_same_order_into_batches() -> None:
    alone = [batch for step in epoch_steps(11, 3, 1, seed=4, epoch=0) for batch in step]
    together = epoch_steps(11, 3, 2, seed=4, epoch=0)
    assert [len(batch) for batch in alone] == [3, 3, 3, 2]
    assert together == [alone[:2], alone[2:]]


def test_no_image_is_left_by_itself_where_it_can_have_company() -> None:
    sizes = {length: [len(b) for s in epoch_steps(length, 4, 1, seed=0, epoch=0) for b in s] for length in (1, 9, 10)}
    assert sizes == {1: [1], 9: [4, 3, 2], 10: [4, 4, 2]}
    assert [len(b) for s in epoch_steps(5, 2, 1, seed=0, epoch=0) for b in s] == [2, 2, 1]
    whole = [key for step in epoch_steps(9, 9, 1, seed=0, epoch=0) for batch in step for key in batch]
    assert [key for step in epoch_steps(9, 4, 1, seed=0, epoch=0) for batch in step for key in batch] == whole


@pytest.mark.parametrize(("length", "processes"), [(12, 2), (11, 2), (7, 3), (2, 3)])
def test_processes_share_a_step_and_count_every_image_alike(length: int, processes: int) -> None:
    (step,) = epoch_steps(length, 2, 6, seed=0, epoch=0)
    parts = [own_parts(step, p, processes, seeded=True) for p in range(processes)]
    assert all(parts), "a process without a part would leave the others waiting"
    weights: dict[int, float] = {}
    for part in (part for own in parts for part in own):
        for index, seed in part.keys:
            weights[index] = weights.get(index, 0.0) + part.share / len(part.keys)
            assert part.seed in [s for _, s in part.keys]
            assert seed == dict(key for batch in step for key in batch)[index]
    assert weights == pytest.approx(dict.fromkeys(range(length), 1 / length))


def test_augmentation_depends_on_the_key_and_leaves_the_generator_alone() -> None:
    class Draw(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __getitem__(self, index: int) -> float:
            return index + torch.rand(()).item()

    dataset = SeededDataset(Draw())  # type: ignore[arg-type]
    before = torch.get_rng_state()
    assert dataset[(3, 17)] == dataset[(3, 17)]
    assert dataset[(3, 17)] != dataset[(3, 18)]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "processes", "batches"),
    [({}, 1, 1), ({"accumulate": 3}, 2, 6), ({"step_images": 16}, 1, 8), ({"step_images": 16, "batch_size": 1}, 4, 16)],
)
def test_batches_of_a_step(settings: dict[str, int], processes: int, batches: int) -> None:
    assert batches_of_step(TrainConfig.from_dict({"data": ".", **settings}), processes) == batches


def test_step_images_must_fit_the_processes() -> None:
    with pytest.raises(PliantError, match="step_images: must be a multiple of batch_size x processes, 2 x 3; got 16;"):
        batches_of_step(TrainConfig(data=".", step_images=16), 3)
