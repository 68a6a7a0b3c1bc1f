# SPDX-License-Identifier: Apache-2.0
"""Every command that writes, where a file may not grow: one line that names the file, and nothing half-written.

A limit on the size of files stands for a full disk: Python ignores the limit's signal, so that a write fails with EFBIG
as it fails with ENOSPC on a full disk.
"""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.fresh import run_fresh
from helpers.runs import DETECTOR, SMALL, options_of, write_photo, write_run
from helpers.shapes import write_shapes
from pliant._check import PliantError
from pliant._writing import write_text, write_whole
from pliant.analysis.draw import draw_boxes
from pliant.cli import main
from pliant.data import Category
from pliant.train.files import AppendedFile
from pliant.train.model import save_categories
from pliant.train.progress import RunReporter

COMMANDS = {
    "predict": (2000, "predict RUN PHOTO --out OUT --device cpu", "0001_photo.png"),
    "page": (2000, "explain RUN PHOTO --out OUT/page.html --units 1 --saliency 0", "page.html"),
    "png": (2000, "explain RUN PHOTO --out OUT/a.png --show points", "a.png"),
    "svg": (2000, "explain RUN PHOTO --out OUT/a.svg --show points", "a.svg"),
    "pdf": (2000, "explain RUN PHOTO --out OUT/a.pdf --show points", "a.pdf"),
    "tables": (100, "explain RUN --data DATA --out OUT", "statistics.md"),
    "plots": (9000, "explain RUN --data DATA --out OUT", "effective_dilation.png"),
    "export": (2000, "export RUN --size 60 80 --out OUT/a.onnx", "a.onnx"),
    "network": (100_000, "convert-checkpoint CHECKPOINT --out OUT", "weights.safetensors"),
    "eval": (100, "eval RUN --data DATA --device cpu", "metrics.json"),
}


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands are given."""
    folder = tmp_path_factory.mktemp("given")
    torch.save({"head.conv_offset_mask.weight": torch.rand(27, 256, 3, 3)}, folder / "layer.pth")
    run = write_run(folder / "run", **DETECTOR)
    save_categories(run, [Category(3, "square"), Category(7, "bar")])  # those of the data
    return {
        "RUN": str(run),
        "PHOTO": str(write_photo(folder / "photo.png")),
        "DATA": str(write_shapes(folder / "data", {"train": 2, "val": 1})),
        "CHECKPOINT": str(folder / "layer.pth"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_cannot_write_names_the_file(
    name: str, given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size, line, file = COMMANDS[name]
    for word, path in {**given, "OUT": str(tmp_path)}.items():
        line = line.replace(word, path)
    with limited(size):
        assert main(line.split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    folder = given["RUN"] if name == "eval" else str(tmp_path)
    assert last.startswith(f"pliant: {folder}/{file}: must be a file that can be written; ")
    assert "File too large" in last
    assert not (Path(folder) / file).exists()
    assert not list(Path(folder).rglob(".partial-*"))


@pytest.mark.parametrize(("size", "file"), [(10, "categories.json"), (4000, "metrics.jsonl")])
def test_a_training_that_cannot_write_names_the_file(
    size: int, file: str, given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        **SMALL,
        **DETECTOR,
        "data": given["DATA"],
        "steps": 60,
        "batch_size": 1,
        "log_every": 1,
    }
    with limited(size):
        assert main(["train", "--out", str(tmp_path / "run"), "--val-split", "none", *options_of(settings)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"pliant: {tmp_path}/run/{file}: must be a file that can be written; File too large; raise")
    assert not list((tmp_path / "run").glob(".partial-*"))


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())  # no file
    with pytest.raises(PliantError, match="log.txt: must be a file that can be written; File too large"):  # noqa: SIM117
        with limited(20), RunReporter(tmp_path, 1, "AP", lambda numbers, step: None) as reporter:
            reporter.say("a line that is longer than twenty bytes")
    assert (tmp_path / "log.txt").read_text() == "a line that is longe"
    file = AppendedFile(tmp_path / "log.txt")
    file.write("r\n")
    file.close()
    assert (tmp_path / "log.txt").read_text().endswith("longer\n")


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    write_text(tmp_path / "a.txt", "before")
    message = "a.txt: must be a file that can be written; No space left on device; free some space$"
    with pytest.raises(PliantError, match=message):
        write_whole(tmp_path / "a.txt", full)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"
    message = (
        "absent/a.txt: must be a file that can be written; No such file or directory; free some space, or write into"
    )
    with pytest.raises(PliantError, match=message):
        write_text(tmp_path / "absent" / "a.txt", "after")


def test_a_picture_without_a_suffix_is_a_png(tmp_path: Path) -> None:
    draw_boxes(torch.zeros(3, 20, 30, dtype=torch.uint8), None, tmp_path / "picture")
    assert (tmp_path / "picture").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_standard_output_that_is_full_is_one_line() -> None:
    program = "import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    done = run_fresh(program + "from pliant.cli import main\nsys.exit(main(['env']))")
    message = "pliant: standard output: must be a file that can be written; No space left on device; free some space\n"
    assert (done.status, done.errors) == (2, message)


@pytest.mark.parametrize("command", ["env", "--help"])
def test_output_that_nobody_reads_any_more_ends_without_a_word(command: str) -> None:
    program = "import os, sys\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)\nsys.stdout = open(1, 'w')\n"
    done = run_fresh(program + f"from pliant.cli import main\nsys.exit(main(['{command}']))")
    assert (done.status, done.errors) == (141, "")


def test_a_broken_pipe_that_is_not_the_output_is_told() -> None:
    program = (
        "import sys\nfrom pliant.cli import main\nfrom pliant.ops import _backends\n"
        "def broken(): raise BrokenPipeError(32, 'Broken pipe')\n"
        "_backends.describe = broken\nsys.exit(main(['env']))"
    )
    done = run_fresh(program)
    assert (done.status, done.errors) == (2, "pliant: [Errno 32] Broken pipe\n")
