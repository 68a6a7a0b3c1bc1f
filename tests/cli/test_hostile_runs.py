# SPDX-License-Identifier: Apache-2.0
"""What a stranger's files and names can do to a command: nothing but one line."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from helpers.data_sets import save_noise
from helpers.fresh import run_fresh
from pliant._check import PliantError
from pliant.backbones import read_tensors
from pliant.cli.predict import image_paths
from pliant.evaluation import classification_metrics
from pliant.train import TrainConfig
from pliant.train.checkpoint import load_checkpoint
from pliant.train.model import load_categories
from pliant.train.progress import read_metrics


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("print('it ran')",))


@pytest.mark.parametrize("read", [load_checkpoint, read_tensors])
def test_a_refused_pickle_comes_without_advice_to_load_it(
    tmp_path: Path, read: object, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": _Evil()}, tmp_path / "zip.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(_Evil()))
    for path in (tmp_path / "zip.pt", tmp_path / "old.pt"):
        with pytest.raises(
            PliantError, match="must hold tensors and plain values alone|must be a whole file"
        ) as raised:
            read(path)  # type: ignore[operator]
        for advice in ("weights_only", "safe_globals", "trust", "\n"):
            assert advice not in str(raised.value)
    assert "it ran" not in capfd.readouterr().out


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(10**6)}}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for member in whole.infolist():
            small.writestr(member.filename, whole.read(member))
    with pytest.raises(PliantError, match="checkpoint: must not be compressed"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "settings",
    [
        '{"data": "x", "seed": 1%s}' % ("0" * 30),
        '{"data": "x", "lr": 1%s}' % ("0" * 400),
        "[" * 100_000,
        "9" * 5000,
        "\xff",
    ],
)
def test_settings_that_no_run_has_are_refused(tmp_path: Path, settings: str) -> None:
    (tmp_path / "config.json").write_text(settings, encoding="latin-1")
    with pytest.raises(PliantError, match="must be a"):
        TrainConfig.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    "text", ['{"id": 1}', "[1]", '[{"id": 1}]', '[{"id": "1", "name": "a"}]', '[{"id": 1, "name": "\\ud800"}]', "["]
)
def test_broken_categories_of_a_run_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "categories.json").write_text(text)
    with pytest.raises(PliantError, match=r"categories\.json"):
        load_categories(tmp_path)


@pytest.mark.parametrize("line", ["7", "null", '{"step": "1"}', '{"step": 1}', "[" * 100_000, "9" * 5000])
def test_broken_metrics_of_a_run_are_refused(tmp_path: Path, line: str) -> None:
    good = '{"step": 1, "epoch": 0}\n'
    (tmp_path / "metrics.jsonl").write_text(good + line + "\n" + good)
    with pytest.raises(PliantError, match=r"metrics\.jsonl, line 2: must be a record with a step and an epoch"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(good + line[:-1])
    assert read_metrics(tmp_path) == [{"step": 1, "epoch": 0}]


def test_names_of_categories_cannot_steer_the_terminal() -> None:
    table = classification_metrics([0, 1], [0, 1], ["oak\x1b[2J", "a\nb"]).table()
    assert r"oak\x1b[2J  1.000" in table and r"a\nb        0.000" in table


def test_predict_takes_the_images_that_training_takes(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/c.gif", "a/d.ppm", "._b.jpg", ".cache/e.jpg", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            save_noise(tmp_path / name)
    assert [str(path.relative_to(tmp_path)) for path in image_paths([tmp_path])] == ["a/c.gif", "a/d.ppm", "b.jpg"]
    assert [str(path.relative_to(tmp_path)) for path in image_paths([tmp_path / "**" / "?.[g-j]*"])] == [
        "a/c.gif",
        "b.jpg",
    ]


def test_any_script_can_be_printed_on_any_terminal() -> None:
    code = "import sys\nfor s in (sys.stdout, sys.stderr): s.reconfigure(encoding='ascii', errors='strict')\n"
    done = run_fresh(code + "from pliant.cli import main; sys.exit(main(['eval', '树\\ud800']))")
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert r"\u6811\ud800" in done.errors
    assert done.errors.isascii()
