# SPDX-License-Identifier: Apache-2.0
"""Batches, schedules, checkpoints and metrics files, each by itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pliant._check import PliantError
from pliant.train import TrainConfig
from pliant.train.batches import SeededDataset, epoch_steps, own_parts
from pliant.train.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from pliant.train.processes import batches_of_step
from pliant.train.progress import drop_metrics_after, read_metrics
from pliant.train.schedule import lr_factor


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


def test_onecycle_rises_for_a_fifth_and_ends_at_a_thousandth() -> None:
    config = TrainConfig(data=".", schedule="onecycle")
    factors = [lr_factor(config, step, 101) for step in range(101)]
    assert factors[0] == pytest.approx(0.04)
    assert factors[20] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.5005)
    assert factors[100] == pytest.approx(0.001)
    assert factors == sorted(factors[:21]) + sorted(factors[21:], reverse=True)


def test_warmup_is_at_most_a_tenth_of_the_run() -> None:
    config = TrainConfig(data=".", warmup_steps=500, milestones=(0.5,))
    assert [lr_factor(config, step, 40) for step in (0, 3, 4, 19, 20)] == pytest.approx([0.25, 1.0, 1.0, 1.0, 0.1])


def test_warmup_of_the_official_v1_code_is_constant() -> None:
    settings = {"data": ".", "warmup_steps": 3, "milestones": (0.6667,), "warmup": "constant", "warmup_factor": 0.1}
    config = TrainConfig(**settings)
    assert [lr_factor(config, step, 30) for step in (0, 2, 3, 19, 21)] == pytest.approx([0.1, 0.1, 1.0, 1.0, 0.1])


def test_warmup_of_mmdetection_starts_at_a_third() -> None:
    config = TrainConfig(data=".", warmup_steps=4, milestones=(0.9,), warmup_factor=0.25)
    rise = [lr_factor(config, step, 40) for step in range(6)]
    assert rise == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0])


@pytest.mark.parametrize(
    ("settings", "processes", "batches"),
    [({}, 1, 1), ({"accumulate": 3}, 2, 6), ({"step_images": 16}, 1, 8), ({"step_images": 16, "batch_size": 1}, 4, 16)],
)
def test_batches_of_a_step(settings: dict[str, int], processes: int, batches: int) -> None:
    assert batches_of_step(TrainConfig.from_dict({"data": ".", **settings}), processes) == batches


def test_step_images_must_fit_the_processes() -> None:
    with pytest.raises(PliantError, match="step_images: must be a multiple of batch_size x processes, 2 x 3; got 16;"):
        batches_of_step(TrainConfig(data=".", step_images=16), 3)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1, "x": torch.arange(3)})
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert load_checkpoint(path)["step"] == 1


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pt")
    with pytest.raises(PliantError, match="checkpoint: must hold tensors and plain values; got .*evil.pt"):
        load_checkpoint(Path("evil.pt"))
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut", b"\x80\x02h\x05."])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(PliantError, match="checkpoint: must hold tensors"):
        load_checkpoint(tmp_path / "c")
    with pytest.raises(PliantError, match="weights: must be a safetensors file"):
        load_weights(tmp_path / "c", nn.Linear(2, 3))


def test_weights_of_another_shape_are_refused_whole(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", nn.Linear(2, 3))
    other = nn.Linear(2, 4)
    before = other.bias.detach().clone()
    with pytest.raises(PliantError, match="weights: must fit the model; 2 names or shapes differ; got .*, e.g. weight"):
        load_weights(tmp_path / "w", other)
    assert torch.equal(other.bias, before)


def test_metrics_after_the_checkpoint_are_dropped_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    # Two steps an epoch; the record that ends an epoch has the number of the next one.
    places = [(1, 0), (2, 0), (2, 1), (3, 1)]
    lines = [json.dumps({"step": step, "epoch": epoch}) for step, epoch in places]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8")
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 2, 3]
    drop_metrics_after(tmp_path, 2, 1)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() == lines[:3]
    drop_metrics_after(tmp_path, 2, 0)  # killed between the end of the epoch and its checkpoint
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() == lines[:2]
