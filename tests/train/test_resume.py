# SPDX-License-Identifier: Apache-2.0
"""Runs of other tasks that end without a word and are resumed: losses and weights of an unbroken run, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.label_shapes import write_class_shapes, write_label_shapes
from pliant.train import TrainConfig
from pliant.train.checkpoint import load_checkpoint
from pliant.train.progress import RunReporter, read_metrics
from pliant.train.run import resume, train

COMMON = {"backbone": "mobilenet_v2", "val_split": None, "log_every": 1, "checkpoint_every": 2, "device": "cpu"}
DEEPLAB = {"model": "deeplab", "deform": "c5", "window": [40, 48], "rotate": 5.0, "photometric": True}
CLASSIFIER = {"model": "classifier", "deform": "c5", "crop_size": 32, "batch_size": 4}


class Crash(BaseException):
    """The end of a process, after which nothing is written any more."""


@pytest.mark.parametrize("settings", [DEEPLAB, {**CLASSIFIER, "accumulate": 2}], ids=["deeplab", "classifier"])
def test_the_losses_of_an_unbroken_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_label_shapes if settings["model"] == "deeplab" else write_class_shapes
    data = write(tmp_path / "data", {"train": 5, "val": 1})
    config = TrainConfig.from_dict({**COMMON, **settings, "data": str(data), "steps": 5})
    assert train(config, tmp_path / "whole")
    shown = RunReporter.step

    def crash(self: RunReporter, number: int, loss: float) -> None:
        shown(self, number, loss)
        if number == 4:
            raise Crash

    monkeypatch.setattr(RunReporter, "step", crash)
    with pytest.raises(Crash):
        train(config, tmp_path / "broken")
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "broken" / "last.pt")["progress"]["step"] == 2
    torch.manual_seed(99)  # whatever a new process starts with
    assert resume(tmp_path / "broken")
    records = [[r for r in read_metrics(tmp_path / name) if "loss" in r] for name in ("whole", "broken")]
    assert len(records[0]) == 5
    assert records[0] == records[1]
    weights = [load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "broken")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
