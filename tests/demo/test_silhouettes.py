# SPDX-License-Identifier: Apache-2.0
"""Reading silhouettes: no repetitions, no overlap of the splits, no code of the file."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from pathlib import Path

import pytest

from helpers.silhouettes import silhouette_files
from pliant.demo import silhouettes as module
from pliant.demo.silhouettes import FILES, read_silhouettes


def _folder(path: Path) -> Path:
    for name, content in silhouette_files().items():
        (path / name).write_bytes(content)
    return path


def test_silhouettes_are_divided_without_repetitions(tmp_path: Path) -> None:
    read = read_silhouettes(_folder(tmp_path))
    digests = {split: {shape.tobytes() for shape in part.shapes} for split, part in read.items()}
    assert not digests["train"] & digests["val"]
    assert sum(len(part.shapes) for part in read.values()) == len(digests["train"] | digests["val"]) == 200


def test_classes_are_labelled_in_the_order_asked_for(tmp_path: Path) -> None:
    every, some = (read_silhouettes(_folder(tmp_path), **k)["train"] for k in ({}, {"classes": ("cat", "bear")}))
    assert (every.kinds == 2).sum() == (some.kinds == 0).sum() > 5
    assert (every.shapes[every.kinds == 0] == some.shapes[some.kinds == 1]).all()


def test_a_wheel_is_read_like_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.whl", "w") as file:
        for name, content in silhouette_files().items():
            file.writestr(f"animal_mnist/data/Animal_MNIST/{name}", content)
    wheel, folder = read_silhouettes(tmp_path / "made.whl"), read_silhouettes(_folder(tmp_path))
    assert (wheel["val"].shapes == folder["val"].shapes).all()


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes(gzip.compress(pickle.dumps(_Hostile())))
    with pytest.raises(pickle.UnpicklingError, match=r"an array holds no builtins\.eval"):
        read_silhouettes(tmp_path)


def test_what_is_no_array_of_integers_is_refused(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes(gzip.compress(pickle.dumps([1, 2])))
    with pytest.raises(ValueError, match="must be an array of integers"):
        read_silhouettes(tmp_path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read_silhouettes(_folder(tmp_path))
