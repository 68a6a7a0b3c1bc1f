# SPDX-License-Identifier: Apache-2.0
"""Reads the silhouettes of the Python package animal-mnist (MIT licence): 28 x 28 pixels, ten kinds in natural poses.

The package keeps them as pickled arrays. Only what an array of numbers is made of is unpickled, so that no code of the
file can run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
FILES = ("animal_data_version_3.gz", "animal_label_version_3.gz")
MAX_BYTES = 64 * 2**20  # of an unpacked file; the silhouettes are 8 million pixels
SIDE = 28
SPLITS = ("train", "val")
# What a pickled array is made of; a pickle that asks for anything else is refused.
ARRAY_PARTS = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct")}


@dataclass(frozen=True)
class Silhouettes:
    """Grey silhouettes (N, 28, 28) uint8, and the place of each one's kind in `CLASSES` (N,)."""

    shapes: np.ndarray[Any, np.dtype[np.uint8]]
    kinds: np.ndarray[Any, np.dtype[np.int64]]


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled arrays of numbers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"an array holds no {module}.{name}")
        return super().find_class(module, name)


def read_silhouettes(source: Path, classes: tuple[str, ...] = CLASSES) -> dict[str, Silhouettes]:
    """Read the silhouettes of `classes`, without repetitions, divided by their content: a fifth is for validation.

    Args:
        source: the wheel of animal-mnist, or the folder that holds its two files.
        classes: the kinds to keep, in the order of their labels.

    Raises:
        ValueError: a file is larger than 64 MB unpacked, or holds no array of integers.
        pickle.UnpicklingError: a file asks for more than arrays of numbers.
    """
    shapes, kinds = (_read_array(_content(source, name)) for name in FILES)
    shapes, kinds = shapes.reshape(-1, SIDE, SIDE).astype(np.uint8), kinds.ravel()
    digests = [hashlib.sha256(shape.tobytes()).digest() for shape in shapes]
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    wanted = {CLASSES.index(name): label for label, name in enumerate(classes)}
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for digest, i in sorted(first.items(), key=lambda item: item[1]):
        if int(kinds[i]) in wanted:
            rows["val" if digest[0] % 5 == 0 else "train"].append(i)
    return {
        split: Silhouettes(shapes[index], np.array([wanted[int(kind)] for kind in kinds[index]]))
        for split, index in rows.items()
    }


def _content(source: Path, name: str) -> bytes:
    if source.is_dir():
        return (source / name).read_bytes()
    with zipfile.ZipFile(source) as wheel:
        member = next(info for info in wheel.infolist() if info.filename.endswith("/" + name))
        if member.file_size > MAX_BYTES:
            raise ValueError(f"{source}: {name} has {member.file_size} bytes, more than {MAX_BYTES}")
        return wheel.read(member)


def _read_array(content: bytes) -> np.ndarray[Any, Any]:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        unpacked = file.read(MAX_BYTES + 1)
    if len(unpacked) > MAX_BYTES:
        raise ValueError(f"an array of silhouettes has more than {MAX_BYTES} bytes")
    array = _ArrayUnpickler(io.BytesIO(unpacked)).load()
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise ValueError("silhouettes must be an array of integers")
    return array
