# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and weights: written whole or not at all, and read without running what they hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from pliant._check import PliantError
from pliant.train.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights


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
    with pytest.raises(PliantError, match="checkpoint: must hold tensors and plain values alone; got .*evil.pt"):
        load_checkpoint(Path("evil.pt"))
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04cut", b"\x80\x02h\x05."])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(PliantError, match="checkpoint: must (hold tensors|be a whole file)"):
        load_checkpoint(tmp_path / "c")
    with pytest.raises(PliantError, match="weights: must be a safetensors file"):
        load_weights(tmp_path / "c", nn.Linear(2, 3))


def test_a_damaged_name_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"step": 1, "x": torch.arange(3)})
    content = bytearray(path.read_bytes())
    name = content.index(b"PK\x03\x04") + 30  # of the first part, in front of its content
    content[name] = 0xB7  # not UTF-8; PyTorch reads the list of names at the archive's end instead
    path.write_bytes(content)
    with pytest.raises(PliantError, match="checkpoint: must be undamaged; .*; copy it again"):
        load_checkpoint(path)


def test_weights_of_another_shape_are_refused_whole(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", nn.Linear(2, 3))
    other = nn.Linear(2, 4)
    before = other.bias.detach().clone()
    with pytest.raises(PliantError, match="weights: must fit the model; 2 names or shapes differ; got .*, e.g. weight"):
        load_weights(tmp_path / "w", other)
    assert torch.equal(other.bias, before)
