# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files, read without running anything that they hold.

MXNet's `.params` files are a list of named arrays in its own format, read with every length checked: that of
`mxnet.nd.save` with dense arrays, in all its versions from 2015 on. Numbers are little-endian:

    file:   uint64 0x112, uint64 0, uint64 count, count arrays, uint64 count, count names (uint64 length, bytes)
    array:  uint32 magic, then by its version
            0xF993FAC9, 0xF993FACA: int32 storage (0 is dense), uint32 dimensions, int64 each
            0xF993FAC8:             uint32 dimensions, int64 each
            any other magic:        is the number of dimensions itself, uint32 each
            int32 device, int32 device number, int32 type, the elements; nothing of this if there are no dimensions
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from pliant._check import fail
from pliant.backbones import read_tensors

FILE_MAGIC = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0
MAX_DIMENSIONS = 32
MAX_ARRAYS = 100_000  # an array without dimensions takes four bytes of a file, and hundreds in memory
DTYPES = {
    0: torch.float32,
    1: torch.float64,
    2: torch.float16,
    3: torch.uint8,
    4: torch.int32,
    5: torch.int8,
    6: torch.int64,
    7: torch.bool,
    12: torch.bfloat16,
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.pth`, `.pt`, `.safetensors` or MXNet `.params` file by their names.

    Raises:
        PliantError: no such file, a pickle with other things than tensors, or a damaged file.
    """
    if path.suffix == ".pkl" and path.is_file():
        fix = "save the model's state dict as a .pth file in the library that made it"
        fail("checkpoint", "must not be a pickle, which runs code when it is read", str(path), fix)
    if path.suffix == ".params" and path.is_file():
        return read_params(path)
    return read_tensors(path, "checkpoint")


def read_params(path: Path) -> dict[str, Tensor]:
    """Read a `.params` file: `arg:` and `aux:` names and their arrays.

    Raises:
        PliantError: not such a file, a file that ends too early or goes on, sparse arrays, or arrays without names.
    """
    cursor = _Cursor(path)
    if cursor.take("<QQ")[0] != FILE_MAGIC:
        cursor.refuse("does not begin as one")
    count = cursor.count(least=4)
    if count > MAX_ARRAYS:
        cursor.refuse(f"has {count} arrays")
    arrays = [_array(cursor) for _ in range(count)]
    names = [cursor.bytes(cursor.count(least=1)) for _ in range(cursor.count(least=8))]
    if len(names) != len(arrays):
        cursor.refuse(f"has {len(arrays)} arrays and {len(names)} names")
    if cursor.left:
        cursor.refuse(f"goes on for {cursor.left} bytes after its end")
    try:
        texts = [bytes(name).decode("utf-8") for name in names]
    except UnicodeDecodeError:
        cursor.refuse("has a name that is not text")
    if len(set(texts)) != len(texts):
        cursor.refuse("has a name twice")
    return dict(zip(texts, arrays, strict=True))


class _Cursor:
    """A place in the bytes of a file; it never reads past their end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = memoryview(path.read_bytes())
        self.place = 0

    @property
    def left(self) -> int:
        return len(self.content) - self.place

    def refuse(self, what: str) -> NoReturn:
        """Raise a `PliantError` which says that the file is or has `what`."""
        fix = "copy it again"
        fail("checkpoint", "must be a .params file of MXNet", f"{self.path}, which {what}", fix)

    def bytes(self, length: int) -> memoryview:
        if length > self.left:
            self.refuse(f"ends after {len(self.content)} bytes, too early")
        self.place += length
        return self.content[self.place - length : self.place]

    def take(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.bytes(struct.calcsize(form)))

    def count(self, *, least: int) -> int:
        """Read the number of items that follow, each of `least` bytes or more."""
        (count,) = self.take("<Q")
        if count * least > self.left:
            self.refuse(f"announces {count} items in its last {self.left} bytes")
        return count


def _array(cursor: _Cursor) -> Tensor:
    shape = _shape(cursor)
    if not shape:
        return torch.empty(0)
    _, _, kind = cursor.take("<iii")
    if kind not in DTYPES:
        cursor.refuse(f"has an array of the unknown type {kind}")
    elements = math.prod(shape)  # of any size: Python's integers do not overflow
    content = cursor.bytes(elements * DTYPES[kind].itemsize)
    if not elements:
        return torch.empty(0, dtype=DTYPES[kind])  # of no elements the other sizes may be any
    return torch.frombuffer(bytearray(content), dtype=DTYPES[kind]).reshape(shape)


def _shape(cursor: _Cursor) -> tuple[int, ...]:
    (magic,) = cursor.take("<I")
    if magic in (VERSION_2, VERSION_3) and cursor.take("<i")[0] != DENSE:
        cursor.refuse("has a sparse array, which pliant does not read")
    new = magic in (VERSION_1, VERSION_2, VERSION_3)
    dimensions = cursor.take("<I")[0] if new else magic
    if dimensions > MAX_DIMENSIONS:
        cursor.refuse(f"has an array of {dimensions} dimensions")
    shape = cursor.take(f"<{dimensions}{'q' if new else 'I'}")
    if any(size < 0 for size in shape):
        cursor.refuse(f"has an array of the shape {shape}")
    return shape
