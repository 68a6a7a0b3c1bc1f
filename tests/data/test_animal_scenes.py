# SPDX-License-Identifier: Apache-2.0
"""The maker of scenes: what it writes can be read in both layouts, and its source cannot run code."""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pliant.data import open_detection, open_segmentation

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("animal_scenes", ROOT / "benchmarks" / "animal_scenes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["animal_scenes"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triangles with two corners cut off by 200 different amounts, and one of them twice."""
    shapes = np.zeros((201, 28, 28), dtype=np.uint8)
    rows, columns = np.mgrid[0:28, 0:28]
    for k in range(200):
        shapes[k][(rows > columns) & (columns >= k // 20) & (rows < 28 - k % 20)] = 255
        shapes[k][0, k // 20], shapes[k][1, k % 20] = 9, 9  # the smallest would be alike
    shapes[200] = shapes[0]
    kinds = np.arange(201) % 10
    path = tmp_path_factory.mktemp("wheel") / "animal_mnist-0.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, array in zip(maker.FILES, (shapes, kinds), strict=True):
            file.writestr(f"animal_mnist/data/Animal_MNIST/{name}", gzip.compress(pickle.dumps(array)))
    return path


def make(maker: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["animal_scenes", *map(str, arguments)])
    maker.main()


def test_both_layouts_hold_the_same_animals(
    maker: ModuleType, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--size", 128, "--train", 6, "--val", 3, "--classes", "cow", "bird", "zebra")
    make(maker, monkeypatch, "--silhouettes", wheel, "--out", tmp_path / "a", *options)
    seen = 0
    for split, count in (("train", 6), ("val", 3)):
        instances = open_detection(tmp_path / "a", split, masks=True, strict=True)
        labels = open_segmentation(tmp_path / "a", split, strict=True)
        assert len(instances) == len(labels) == count
        assert instances.class_names == ["cow", "bird", "zebra"]
        assert labels.class_names == ["background", "cow", "bird", "zebra"]
        for k in range(count):
            target, values = instances[k][1], labels[k][1]["labels_map"]
            for mask, box, label in zip(target["masks"], target["boxes"], target["labels"], strict=True):
                rows, columns = mask.nonzero().unbind(1)
                tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert torch.equal(box.int(), torch.stack(tight).int())
                assert (values[mask.bool()] == label).all()
                seen += 1
            assert target["masks"].sum(0).max() <= 1  # what is hidden belongs to nobody
    assert seen > 9

    make(maker, monkeypatch, "--silhouettes", wheel, "--out", tmp_path / "b", *options)
    for path in (tmp_path / "a").rglob("*.*"):
        assert (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() == path.read_bytes()


def test_silhouettes_are_divided_without_repetitions(maker: ModuleType, wheel: Path) -> None:
    read = maker.read_silhouettes(wheel)
    digests = {split: {shape.tobytes() for shape in part.shapes} for split, part in read.items()}
    assert not digests["train"] & digests["val"]
    assert sum(len(part.shapes) for part in read.values()) == len(digests["train"] | digests["val"]) == 200


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_pickle_that_would_run_code_is_refused(maker: ModuleType, tmp_path: Path) -> None:
    for name in maker.FILES:
        (tmp_path / name).write_bytes(gzip.compress(pickle.dumps(_Hostile())))
    with pytest.raises(pickle.UnpicklingError, match=r"an array holds no builtins\.eval"):
        maker.read_silhouettes(tmp_path)
