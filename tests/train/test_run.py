# SPDX-License-Identifier: Apache-2.0
"""Whole runs: killed and resumed without a trace, interrupted, refused, watched."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.fresh import run_fresh
from pliant._check import PliantError
from pliant.nn import DeformConv2d
from pliant.train import TrainConfig
from pliant.train import run as run_module
from pliant.train.checkpoint import load_checkpoint
from pliant.train.model import load_run
from pliant.train.progress import RunReporter, read_metrics
from pliant.train.run import resume, train

KILLED_RUN = """
import json, os, signal, sys
from pathlib import Path
import torch
from pliant.train import TrainConfig
from pliant.train.run import train

settings, out, fatal = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
whole = torch.save
def save(state, file):
    whole(state, file)
    if state["progress"]["step"] == fatal:
        file.flush()
        os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
train(TrainConfig.from_dict(settings), out)
"""


def _losses(run: Path) -> list[tuple[int, float, float]]:
    return [(r["step"], r["loss"], r["loss_box_reg"]) for r in read_metrics(run) if "loss" in r]


@pytest.mark.parametrize(
    ("changed", "fatal", "kept"),
    [
        # Four steps an epoch: the checkpoint that is there is of the second epoch, the one being written of the third.
        ({"steps": 10, "checkpoint_every": 3}, 9, 6),
        ({"steps": 4, "checkpoint_every": 1, "accumulate": 2}, 2, 1),
    ],
)
def test_a_run_killed_while_it_writes_a_checkpoint_is_resumed_with_the_losses_of_an_unbroken_one(
    changed: dict[str, int], fatal: int, kept: int, tiny: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny, **changed, "backbone": "mobilenet_v3_small"}  # whose checkpoints are small
    assert train(TrainConfig.from_dict(settings), tmp_path / "whole")
    killed = run_fresh(KILLED_RUN, json.dumps(settings), str(tmp_path / "killed"), str(fatal))
    assert killed.status == -signal.SIGKILL, killed.errors
    assert [step for step, *_ in _losses(tmp_path / "killed")][-1] == fatal
    assert torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["progress"]["step"] == kept
    assert resume(tmp_path / "killed")
    whole, again = _losses(tmp_path / "whole"), _losses(tmp_path / "killed")
    assert [step for step, *_ in whole] == list(range(1, changed["steps"] + 1))
    assert again == whole
    weights = [load_run(tmp_path / name)[0].state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_sigint_saves_and_says_how_to_go_on(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = RunReporter.step

    def interrupt(self: RunReporter, number: int, loss: float) -> None:
        shown(self, number, loss)
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunReporter, "step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    assert not train(TrainConfig.from_dict({**tiny, "steps": 4}), tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    assert f"stopped after step 2; continue with: pliant train --resume {tmp_path / 'run'}" in capsys.readouterr().err
    monkeypatch.undo()
    assert resume(tmp_path / "run")
    assert [step for step, *_ in _losses(tmp_path / "run")] == [1, 2, 3, 4]


def test_the_folder_of_an_evaluated_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {**tiny, "val_split": "val", "epochs": 2, "steps": None, "tracker": "tensorboard"}
    assert train(TrainConfig.from_dict(settings), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {"config.json", "categories.json", "environment.json", "metrics.jsonl", "log.txt", "last.pt", ".lock"}
    assert names == expected | {"weights.safetensors", "tensorboard"}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "pliant")).Reload()
    losses = [record["loss"] for record in read_metrics(tmp_path / "run") if "loss" in record]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("ap")] == [4, 8]
    epochs = [record for record in read_metrics(tmp_path / "run") if "ap" in record]
    assert [(record["step"], record["epoch"]) for record in epochs] == [(4, 1), (8, 2)]
    assert all(-1 <= record["ap"] <= record["ap50"] <= 1 for record in epochs)
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert (config["norm"], config["frozen_stages"]) == ("batch", 0)
    assert json.loads((tmp_path / "run" / "categories.json").read_text(encoding="utf-8"))[1] == {"id": 7, "name": "bar"}


def test_a_package_that_is_missing_is_told_before_the_folder_is_a_run(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PliantError, match="tracker: must be installed to be 'wandb'; it is not; pip install wandb"):
        train(TrainConfig.from_dict({**tiny, "tracker": "wandb"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_offsets_are_in_the_metrics_and_runaways_are_told_once(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = run_module.build_model

    def far(*args: Any, **options: Any) -> torch.nn.Module:
        model = built(*args, **options)
        with torch.no_grad():
            model.backbone.get_submodule("body.layer3.1.conv2").conv_offset.bias[:18] = 500.0
        return model

    monkeypatch.setattr(run_module, "build_model", far)
    settings = {**tiny, "deform": r"layer3\.1\.conv2", "steps": None, "epochs": 2, "checkpoint_every": 3}
    assert train(TrainConfig.from_dict(settings), tmp_path / "run")
    records = [record for record in read_metrics(tmp_path / "run") if "offsets" in record]
    # With each checkpoint, and at the end of each epoch of four steps.
    assert [record["step"] for record in records] == [3, 4, 6, 8]
    offsets = [record["offsets"] for record in records]
    assert offsets[0]["backbone.body.layer3.1.conv2"]["outside"] == 1.0
    assert offsets[0]["backbone.body.layer3.1.conv2"]["mean"] == pytest.approx(500.0, abs=5.0)
    assert capsys.readouterr().err.count("warning: the offsets of backbone.body.layer3.1.conv2 ran away") == 1


def test_the_offsets_of_a_run_can_be_bounded_and_learn_at_the_papers_rates(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**tiny, "roi_pool": "deform", "offset_limit": 0.25, "offset_grad_clip": 1e-3, "steps": 2, "lr": 0.05}
    assert train(TrainConfig.from_dict(settings), tmp_path / "run")
    model, _, config = load_run(tmp_path / "run")
    layers = [module for module in model.modules() if isinstance(module, DeformConv2d)]
    assert layers
    assert all(layer.offset_limit == config.offset_limit == 0.25 for layer in layers)
    (record,) = [record for record in read_metrics(tmp_path / "run") if "offsets" in record]
    pools = {name for name in record["offsets"] if "box_roi_pool" in name}
    assert len(record["offsets"]) == len(layers) + len(pools)
    assert len(pools) == 1
    assert all(0 <= numbers["mean"] <= 0.25 for numbers in record["offsets"].values())
    # The papers' rates: a tenth for v2's convolutions, a hundredth for v1's fully connected layer.
    groups = load_checkpoint(tmp_path / "run" / "last.pt")["optimizer"]["param_groups"]
    assert {group["name"]: round(group["initial_lr"], 6) for group in groups} == {
        "base": 0.05,
        "offset": 0.005,
        "roi_offset": 0.0005,
    }


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        PliantError, match="training: losses must be finite; got .*loss_.* not finite; lower lr"
    ) as caught:
        train(TrainConfig.from_dict({**tiny, "lr": 1e9, "grad_clip": 0.0, "warmup_steps": 0}), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_used_folder_and_a_folder_without_a_run_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PliantError, match="out: must not hold a run already; .* `pliant train --resume"):
        train(TrainConfig.from_dict(tiny), tmp_path)
    with pytest.raises(PliantError, match="resume: must be a run folder with config.json; got .*/none"):
        resume(tmp_path / "none")
    with pytest.raises(PliantError, match="data: must name the folder of the data set"):
        resume(tmp_path)
