# SPDX-License-Identifier: Apache-2.0
"""The maker of scenes: what it writes can be read in both layouts."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from helpers.silhouettes import silhouette_files
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up silhouettes as the package holds them."""
    path = tmp_path_factory.mktemp("wheel") / "animal_mnist-0.4-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in silhouette_files().items():
            file.writestr(f"animal_mnist/data/Animal_MNIST/{name}", content)
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
