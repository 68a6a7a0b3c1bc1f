# SPDX-License-Identifier: Apache-2.0
"""What happens to runs: extended, restarted, held twice, damaged on disk, out of space, without their readers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fresh import run_fresh
from helpers.label_shapes import write_class_shapes
from helpers.runs import options_of
from pliant._check import PliantError
from pliant.train import TrainConfig, load_run, resume, train, train_or_resume
from pliant.train.checkpoint import load_checkpoint, read_weights
from pliant.train.files import AppendedFile, locked, write_atomically
from pliant.train.progress import RunReporter, read_metrics


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A classifier in runs of six steps, three an epoch."""
    data = write_class_shapes(tmp_path_factory.mktemp("shapes"), {"train": 4, "val": 1})
    return {
        "data": str(data),
        "val_split": None,
        "model": "classifier",
        "backbone": "mobilenet_v3_small",
        "norm": "frozen",
        "crop_size": 32,
        "resize_size": 40,
        "batch_size": 4,
        "epochs": 2,
        "log_every": 1,
        "checkpoint_every": 2,
        "schedule": "multistep",
        "milestones": [0.999],
        "warmup_steps": 0,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def finished(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train(TrainConfig.from_dict(settings), run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def losses(run: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read_metrics(run) if "loss" in record]


@pytest.mark.parametrize("more", [{"epochs": 3}, {"steps": 9}])
def test_a_finished_run_is_extended_with_the_losses_of_a_longer_one(
    more: dict[str, int], run: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    assert resume(run, more)
    assert train(TrainConfig.from_dict({**settings, "epochs": 3}), tmp_path / "longer")
    assert losses(run) == losses(tmp_path / "longer")
    assert json.loads((run / "config.json").read_text())["steps"] == more.get("steps")


def test_a_run_that_ended_within_an_epoch_goes_on_in_it(settings: dict[str, Any], tmp_path: Path) -> None:
    short = {**{k: v for k, v in settings.items() if k != "epochs"}, "steps": 2}
    assert train(TrainConfig.from_dict(short), tmp_path / "run")
    assert resume(tmp_path / "run", {"epochs": 2})
    assert train(TrainConfig.from_dict(settings), tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_finished_run_stays_finished_where_nothing_more_is_asked_for(run: Path) -> None:
    before = (run / "weights.safetensors").read_bytes()
    assert resume(run, {"workers": 0})
    assert (run / "weights.safetensors").read_bytes() == before


def test_other_images_are_refused_unless_they_are_given(
    run: Path, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(settings["data"], tmp_path / "other"))
    picture = next((other / "train").glob("*/*.png"))
    picture.rename(picture.with_name("renamed.png"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": str(other)}))
    with pytest.raises(PliantError, match="resume: must have the data of the run; .*train of .* holds other images"):
        resume(run, {"epochs": 3})
    assert resume(run, {"data": str(other), "epochs": 3})
    assert f"continued on other images than before: 12 of {other}" in capsys.readouterr().err


def test_one_command_starts_and_continues(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    shown = RunReporter.step

    def interrupt(self: RunReporter, number: int, loss: float) -> None:
        shown(self, number, loss)
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    config = TrainConfig.from_dict(settings)
    monkeypatch.setattr(RunReporter, "step", interrupt)
    assert not train_or_resume(config, tmp_path / "run")
    monkeypatch.undo()
    assert train_or_resume(config, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(finished)
    message = "continue: must come with the settings of the run in .*; got lr 0.5 for 0.0125; give the run's settings"
    with pytest.raises(PliantError, match=message):
        train_or_resume(TrainConfig.from_dict({**settings, "lr": 0.5}), tmp_path / "run")


def test_a_run_folder_is_held_by_one_process(run: Path) -> None:
    code = "import time; from pathlib import Path; from pliant.train.files import locked\n"
    code += f"with locked(Path({str(run)!r})):"
    code += "\n    print('held', flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(PliantError, match="out: must be a run folder that no other run writes to; .*another"):
            resume(run)
        holder.kill()
    assert resume(run)  # the lock of a killed process is none


def test_nothing_is_written_through_a_link(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("log.txt", "metrics.jsonl", ".lock", "last.pt.partial"):
        kept = (run / name).read_bytes() if (run / name).exists() else None
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(victim)
        with pytest.raises(PliantError, match=f"out: must be a folder without links; got .*{name}; put a copy"):
            resume(run, {"epochs": 3})
        (run / name).unlink()
        if kept is not None:
            (run / name).write_bytes(kept)
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(PliantError, match="without links"):
        AppendedFile(tmp_path / "link")
    write_atomically(tmp_path / "link", lambda path: path.write_text("other"))
    assert victim.read_text() == "mine" and (tmp_path / "link").read_text() == "other"


def test_temporary_files_have_names_that_nobody_knows_before(tmp_path: Path) -> None:
    seen: list[Path] = []
    for _ in range(2):
        write_atomically(tmp_path / "a.txt", lambda path: (seen.append(path), path.write_text("x")))
    assert seen[0] != seen[1] and {path.parent for path in seen} == {tmp_path}
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".partial-k3j2h1.pt"
    left.write_bytes(b"half")
    with locked(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("name", ["last.pt", "weights.safetensors"])
def test_one_flipped_bit_is_noticed(name: str, run: Path) -> None:
    path = run / name
    content = bytearray(path.read_bytes())
    for place in (len(content) // 3, len(content) // 2, len(content) * 2 // 3):
        content[place] ^= 4
        path.write_bytes(content)
        with pytest.raises(PliantError, match="must be undamaged; .*; its checksum is not that of its content; copy"):
            load_checkpoint(path) if name == "last.pt" else load_run(run)
        content[place] ^= 4
    path.write_bytes(content)
    assert load_checkpoint(path) if name == "last.pt" else load_run(run)


def test_weights_of_others_need_no_checksum(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")["a"].tolist() == [1.0, 2.0]


def test_weights_are_there_before_the_checkpoint_that_says_done(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr("pliant.train.loop.save_weights", lambda path, model: order.append(path.name))
    monkeypatch.setattr("pliant.train.loop.save_checkpoint", lambda path, state: order.append(path.name))
    assert train(TrainConfig.from_dict({**settings, "epochs": 1}), tmp_path / "run")
    assert order == ["weights.safetensors", "last.pt"] * 2


PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
from pliant.cli import main
sys.exit(main(sys.argv[2:]))
"""


def command(settings: dict[str, Any], out: Path) -> list[str]:
    return ["train", "--out", str(out), "--val-split", "none", *options_of(settings)]


@pytest.mark.parametrize("limit", [2_000_000, 8_000_000])  # within the weights, and within the checkpoint
def test_a_file_that_may_not_grow_is_one_line(limit: int, settings: dict[str, Any], tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = run_fresh(PROGRAM, str(limit), *command(settings, tmp_path / "run"))
    assert done.status == 2, done.errors
    assert "Traceback" not in done.errors
    last = done.errors.splitlines()[-1]
    file = "weights.safetensors" if limit == 2_000_000 else "last.pt"
    assert last.startswith(f"pliant: {tmp_path}/run/{file}: must be a file that can be written; ")
    assert "File too large" in last
    assert not list((tmp_path / "run").glob(".partial-*"))


def test_a_lost_reader_is_one_line(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.data import ClassificationDataset

    read = ClassificationDataset.__getitem__

    def dying(self: Any, index: int) -> Any:
        if torch.utils.data.get_worker_info() is not None:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    monkeypatch.setattr(ClassificationDataset, "__getitem__", dying)
    with pytest.raises(PliantError, match="workers: must not end before the training; DataLoader worker .*; lower"):
        train(TrainConfig.from_dict({**settings, "workers": 1}), tmp_path / "run")
