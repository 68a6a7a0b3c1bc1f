# SPDX-License-Identifier: Apache-2.0
"""Several processes, accumulated batches, and mixed precision: the same gradients, whoever computes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from helpers.label_shapes import write_class_shapes
from helpers.one_step import IMAGES, one_step
from pliant._check import PliantError
from pliant.nn import DeformConv2d
from pliant.surgery import param_groups
from pliant.train import TrainConfig
from pliant.train.batches import Part
from pliant.train.checkpoint import load_checkpoint
from pliant.train.engine import train_one_epoch
from pliant.train.progress import read_metrics
from pliant.train.run import resume, train

RUN = """
import json, sys
from pathlib import Path
import torch
from helpers.one_step import one_step
from pliant.train import TrainConfig
from pliant.train.run import train

torch.set_num_threads(1)
folder = Path(sys.argv[1])
for name, settings in json.loads(sys.argv[2]).items():
    train(TrainConfig.from_dict(settings), folder / name)
one_step(batches=2, out=folder)
# What the last group's threads still do would end a process that ends first with an abort.
if torch.distributed.is_initialized():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


def check_step(out: Path) -> None:
    """Compare with the gradient of the mean over all three images, by hand: 2 (w.x) x, averaged."""
    weight = torch.tensor([1.0, -2.0, 0.5])
    products = IMAGES @ weight  # (3,)
    expected = weight - (2 * products[:, None] * IMAGES).mean(0)
    found = json.loads((out / "step.json").read_text(encoding="utf-8"))
    assert found["weight"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert found["loss"] == found["loss_square"] == pytest.approx(products.square().mean().item(), rel=1e-5)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """accelerate allows one precision in a process; forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def small(tiny: dict[str, Any]) -> dict[str, Any]:
    """Seven images: of two processes or two batches to a step, the second step has two images and one."""
    frozen = {"norm": "frozen", "lr": 0.002, "offset_lr_scale": 1.0, "warmup_steps": 0}
    return {**tiny, **frozen, "val_split": "val", "steps": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model whose losses follow from images and weights without a choice that rounding could turn."""
    data = write_class_shapes(tmp_path_factory.mktemp("data"), {"train": 4, "val": 1})
    model = {"model": "classifier", "backbone": "mobilenet_v3_small", "norm": "frozen", "lr": 0.01, "warmup_steps": 0}
    sizes = {"crop_size": 32, "resize_size": 40, "batch_size": 2, "step_images": 4, "log_every": 1}
    return {"data": str(data), "val_split": None, **model, **sizes, "steps": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def two(
    small: dict[str, Any], classifier: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """What two processes, started once, trained and wrote: the runs "detector" and "classifier", and what was said."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "program.py").write_text(RUN, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "program.py")]
    command = [sys.executable, *launcher, str(folder), json.dumps({"detector": small, "classifier": classifier})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def _losses(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if k.startswith("loss")} for r in read_metrics(run) if "loss" in r]


def test_two_processes_take_the_steps_of_one_that_accumulates(
    two: tuple[Path, str], small: dict[str, Any], tmp_path: Path
) -> None:
    runs = tmp_path / "one", two[0] / "detector"
    assert train(TrainConfig.from_dict({**small, "accumulate": 2}), runs[0])
    assert two[1].count("in 2 processes, 2 steps of 4 images left") == 2, "of each run"
    assert two[1].count("done: ") == 2, "the main process alone speaks"
    by_one, by_two = map(_losses, runs)
    assert len(by_two) == 2
    # Two, since rounding sooner or later makes another choice of proposals.
    assert by_two == [pytest.approx(losses, rel=1e-4, abs=1e-6) for losses in by_one]
    # Momentum holds what the gradients were; SGD's buffers say more than the weights, which hardly move.
    states = [load_checkpoint(run / "last.pt") for run in runs]
    buffers = [[s["momentum_buffer"] for s in state["optimizer"]["state"].values()] for state in states]
    assert len(buffers[0]) > 40
    for ours, theirs in zip(*buffers, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-5)
    # Both looked at both images of the validation split.
    metrics = [[r["ap50"] for r in read_metrics(run) if "ap50" in r] for run in runs]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)


def test_a_step_of_two_processes_by_hand(two: tuple[Path, str]) -> None:
    check_step(two[0])


def test_batches_of_unlike_size_count_by_their_images(tmp_path: Path) -> None:
    one_step(batches=2, out=tmp_path)
    check_step(tmp_path)


def test_the_gradient_of_offset_branches_is_clipped_by_itself() -> None:
    torch.manual_seed(0)
    layer = DeformConv2d(2, 3, 3, modulated=False)
    model = Loss(layer)
    groups = param_groups(model, lr=1.0, weight_decay=0.0, offset_lr_scale=1.0)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, SGD(groups, lr=1.0))
    read = [(Part([(0, 0)], 1.0, None), ([torch.rand(2, 7, 9)], []))]
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    clip = {"grad_clip": 1e6, "offset_grad_clip": 1e-3}
    train_one_epoch(prepared, [read], optimizer, schedule, accelerator, **clip, on_step=lambda losses: True)
    moved = {name: (parameter - before[name]).detach() for name, parameter in layer.named_parameters()}
    offsets = torch.cat([value.flatten() for name, value in moved.items() if "conv_offset" in name])
    assert offsets.norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert moved["weight"].norm().item() > 0.1


class Loss(nn.Module):
    """The sum of squares of a layer's output for one image."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"loss_square": self.layer(images[0][None]).square().sum()}


def test_another_number_of_processes_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    assert train(TrainConfig.from_dict({**small, "steps": 1, "val_split": None}), tmp_path / "run")
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    torch.save({**state, "processes": 4, "batches": 4}, tmp_path / "run" / "last.pt")
    message = (
        "resume: must make steps of 4 batches, as 4 processes did; got 1 batch; start 4 processes, or train with --step"
    )
    with pytest.raises(PliantError, match=message):
        resume(tmp_path / "run")


def test_one_process_goes_on_with_the_steps_of_two(
    two: tuple[Path, str], classifier: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = two[0] / "classifier"
    assert train(TrainConfig.from_dict({**classifier, "steps": 5}), tmp_path / "one")
    capfd.readouterr()
    assert resume(run, {"steps": 5})
    assert "1 process, before 2: sums in another order, so that losses differ by rounding" in capfd.readouterr().err
    by_one, by_two = _losses(tmp_path / "one"), _losses(run)
    assert len({losses["loss"] for losses in by_one}) == 5
    assert by_two == [pytest.approx(losses, rel=1e-3) for losses in by_one]
    assert [r["step"] for r in read_metrics(run) if "loss" in r] == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("fresh_accelerate")
def test_bf16_trains_on_the_cpu(small: dict[str, Any], tmp_path: Path) -> None:
    settings = {**small, "steps": 3, "val_split": None}
    assert train(TrainConfig.from_dict(settings), tmp_path / "float32")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train(TrainConfig.from_dict({**settings, "precision": "bf16"}), tmp_path / "bf16")
    whole, half = _losses(tmp_path / "float32"), _losses(tmp_path / "bf16")
    assert half != whole
    # After a step the proposals, and with them the samples that are drawn, are others.
    assert half[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.02)
    assert [r["loss"] for r in half] == pytest.approx([r["loss"] for r in whole], rel=0.5)
    weights = load_checkpoint(tmp_path / "bf16" / "last.pt")["model"]
    assert {w.dtype for w in weights.values()} <= {torch.float32, torch.int64}


def test_fp16_needs_an_accelerator(small: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PliantError, match="precision: must be 'no' or 'bf16' on the CPU; got 'fp16'; use bf16"):
        train(TrainConfig.from_dict({**small, "precision": "fp16"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_channels_last_changes_the_layout_and_not_the_losses(small: dict[str, Any], tmp_path: Path) -> None:
    settings = {**small, "steps": 2, "val_split": None}
    assert train(TrainConfig.from_dict(settings), tmp_path / "first")
    assert train(TrainConfig.from_dict({**settings, "channels_last": True}), tmp_path / "last")
    first, last = _losses(tmp_path / "first"), _losses(tmp_path / "last")
    assert last == [pytest.approx(losses, rel=1e-4) for losses in first]
    weight = load_checkpoint(tmp_path / "last" / "last.pt")["model"]["backbone.body.layer3.1.conv2.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_compile_is_asked_of_the_backbone_and_offsets_are_still_watched(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    compile_eagerly = torch.nn.Module.compile

    def compile_(module: torch.nn.Module) -> None:
        compiled.append(module)
        compile_eagerly(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    settings = {**small, "min_size": [64], "steps": 2, "val_split": None}
    assert train(TrainConfig.from_dict(settings), tmp_path / "plain")
    assert train(TrainConfig.from_dict({**settings, "compile": True}), tmp_path / "compiled")
    assert [type(module).__name__ for module in compiled] == ["PyramidBackbone"]
    plain, ours = _losses(tmp_path / "plain"), _losses(tmp_path / "compiled")
    assert ours == [pytest.approx(losses, rel=1e-4) for losses in plain]
    (offsets,) = (r["offsets"] for r in read_metrics(tmp_path / "compiled") if "offsets" in r)
    assert len(offsets) == 4
    assert set(load_checkpoint(tmp_path / "compiled" / "last.pt")["model"]) == set(
        load_checkpoint(tmp_path / "plain" / "last.pt")["model"]
    )
