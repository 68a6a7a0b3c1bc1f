# SPDX-License-Identifier: Apache-2.0
"""Label maps of semantic segmentation: images whose values are classes, read without changing a single one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pliant._check import fail
from pliant._labels import IGNORE
from pliant._writing import write_whole
from pliant.data.images import UnreadableImageError, opened

# Lossy formats would add wrong classes at every border.
_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

# Values of a map are grey levels or palette indices; wider ones are taken while they fit.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def read_label_size(path: Path | str) -> tuple[int, int]:
    """Read (width, height) of a label map without decoding it, and check that it is one.

    Raises:
        UnreadableImageError: the file is not there, or is no PNG, TIFF, BMP or GIF of one channel.
    """
    with opened(path, _FORMATS) as image:
        _check_mode(path, image.mode)
        return image.size


def read_label_map(path: Path | str) -> Tensor:
    """Read a label map: the indices of a palette image, the grey levels of a grey one.

    Args:
        path: PNG, TIFF, BMP or GIF with one channel.

    Returns:
        (H, W) uint8.

    Raises:
        UnreadableImageError: the file is not there, is broken, has colours instead of indices, or values above 255.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "labels.png"
        >>> image = Image.new("P", (3, 2), 7)
        >>> image.putpalette([0, 128, 255] * 256)
        >>> image.save(file)
        >>> read_label_map(file).tolist()
        [[7, 7, 7], [7, 7, 7]]
    """
    with opened(path, _FORMATS) as image:
        _check_mode(path, image.mode)
        values = np.array(image)  # (H, W): for "P" the indices
    if values.dtype != np.uint8:
        if values.min(initial=0) < 0 or values.max(initial=0) > IGNORE:
            got = f"{path} with values from {values.min()} to {values.max()}"
            fix = "write 255 for what is to be ignored"
            fail("labels", "must be values from 0 to 255", got, fix, kind=UnreadableImageError)
        values = values.astype(np.uint8)
    return torch.from_numpy(values)


def _check_mode(path: Path | str, mode: str) -> None:
    if mode not in _MODES:
        rule = "must be palette indices or grey levels, one channel"
        fix = "save the class of each pixel, not its colour"
        fail("labels", rule, f"{path} in mode {mode}", fix, kind=UnreadableImageError)


def write_label_map(labels: Tensor, path: Path | str, *, palette: Tensor) -> None:
    """Write labels as a palette PNG, the format of Pascal VOC.

    Args:
        labels: (H, W) integers, 0..255.
        path: a file name that ends in .png.
        palette: (256, 3) uint8, the colour that shows each value.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "labels.png"
        >>> grey = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3)
        >>> write_label_map(torch.tensor([[3, 255]]), file, palette=grey)
        >>> read_label_map(file).tolist()
        [[3, 255]]
    """
    height, width = labels.shape
    image = Image.frombytes("P", (width, height), labels.to(torch.uint8).contiguous().numpy().tobytes())
    image.putpalette(palette.flatten().tolist())
    write_whole(path, lambda target: image.save(target, format="PNG"))


class LabelTable:
    """What each value of a file's label map means: a label 0..C-1, or to be ignored.

    Args:
        labels: value in the file to label; `IGNORE` for values that are to be ignored on purpose. 255 always is.

    Example:
        >>> table = LabelTable({7: 0, 11: 1, 0: IGNORE})
        >>> labels, unknown = table(torch.tensor([[7, 0, 11], [255, 9, 7]], dtype=torch.uint8))
        >>> labels.tolist(), list(unknown)
        ([[0, 255, 1], [255, 255, 0]], [9])
    """

    def __init__(self, labels: Mapping[int, int]) -> None:
        self._labels = bytes(labels.get(value, IGNORE) for value in range(256))
        self._known = bytes({*labels, IGNORE})

    def __call__(self, values: Tensor) -> tuple[Tensor, bytes]:
        """Map values (H, W) uint8 to labels (H, W) uint8; also return the value of each pixel that means nothing."""
        content = values.numpy().tobytes()  # translated as bytes: indices would take eight times the memory
        labels = torch.frombuffer(bytearray(content.translate(self._labels)), dtype=torch.uint8)
        return labels.reshape(values.shape), content.translate(None, self._known)
