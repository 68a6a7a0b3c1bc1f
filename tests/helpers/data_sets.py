# SPDX-License-Identifier: Apache-2.0
"""What tests of data sets share: photographs of noise whose two sides differ, and VOC's xml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40

Make = Callable[..., Path]  # what the fixtures are: see their inner functions


def save_noise(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    """Write an RGB image of noise; (width, height) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def cut(path: Path, keep: float = 0.5) -> None:
    """Cut off the end of a file, as a copy that was interrupted does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def voc_xml(
    objects: str | None = None,
    *,
    file_name: str = "a.jpg",
    size: tuple[int, int] | None = (WIDTH, HEIGHT),
    head: str = "",
) -> str:
    """Return the text of an annotation; `objects` is what `voc_object` returns, joined, and one box by default."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    objects = voc_object("oak", 2, 3, 31, 11) if objects is None else objects
    return f"{head}<annotation><filename>{file_name}</filename>{stated}{objects}</annotation>"


def voc_object(name: str, *corners: object, difficult: int = 0) -> str:
    """Return one object with corners xmin, ymin, xmax, ymax."""
    parts = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{key}>{value}</{key}>" for key, value in parts)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
