# SPDX-License-Identifier: Apache-2.0
"""Reading images of strangers: known formats only, bounded size, and one clear error for what is broken."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from pliant._check import PliantError, fail

# Pillow's own limit of an error. Decoded to RGB this is half a gigabyte.
MAX_PIXELS = 178_956_970

# Of a longer stripe nothing is left in a resized image, or, where its short side is given a size, no memory.
MAX_ASPECT = 100

# Formats that need no helper program and that data sets come in. Pillow would also hand EPS to Ghostscript.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".jp2")

# What Pillow raises for files that lie about themselves.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, OverflowError, struct.error, zlib.error)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(PliantError):
    """An image file that is missing, broken, too large, too thin, or of a kind without an agreed conversion to RGB."""


class HugeImageError(UnreadableImageError):
    """An image of more pixels than are read; a small file can claim any number of them."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image says before it is decoded: `size` (width, height) as stored, and its EXIF orientation, 1 to 8."""

    size: tuple[int, int]
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) after the EXIF orientation is applied: 5 to 8 exchange the two."""
        return self.size if self.orientation < 5 else self.size[::-1]


def read_header(path: Path | str) -> ImageHeader:
    """Read size and orientation of an image file without decoding it.

    Raises:
        UnreadableImageError: the file is not there, is no image of a known format, or is a stripe of more than 100
            to 1.
        HugeImageError: it has more than 178,956,970 pixels.
    """
    with opened(path) as image:
        return ImageHeader(image.size, _orientation(image))


def read_image(path: Path | str, *, apply_exif: bool = True) -> Tensor:
    """Read an image file as uint8 RGB.

    Grey, palette, CMYK and YCbCr images are converted to RGB, an alpha channel is left out (as OpenCV and torchvision
    do), 16-bit values are scaled by 255/65535, and of several frames the first is taken.

    Args:
        path: the file: JPEG, PNG, TIFF, BMP, WebP, GIF, PPM or JPEG 2000.
        apply_exif: turn the image upright as its EXIF orientation says.

    Returns:
        (3, H, W) uint8.

    Raises:
        UnreadableImageError: the file is not there, is broken or cut off, has floating-point pixels, or is a stripe of
            more than 100 to 1.
        HugeImageError: it has more than 178,956,970 pixels.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (4, 2), "red").save(file)
        >>> image = read_image(file)
        >>> tuple(image.shape), image[:, 0, 0].tolist()
        ((3, 2, 4), [255, 0, 0])
    """
    with opened(path) as image:
        orientation = _orientation(image)
        pixels = _to_rgb(image)
        if apply_exif and orientation in _UPRIGHT:
            pixels = pixels.transpose(_UPRIGHT[orientation])
        tensor: Tensor = pil_to_tensor(pixels)  # (3, H, W)
        return tensor.contiguous()


@contextmanager
def opened(path: Path | str, formats: tuple[str, ...] = _FORMATS) -> Iterator[Image.Image]:
    """Open an image of one of `formats`, and word everything that goes wrong until it is closed."""
    path = Path(path)
    if not path.is_file():
        fail("image", "must be an image file", path, "no such file is there", kind=UnreadableImageError)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images from half of the limit on, and of damage beside the pixels.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=formats) as image:
                _check_size(path, image.size)
                yield image
    except Image.DecompressionBombError as error:
        raise HugeImageError(f"image: must have at most {MAX_PIXELS:,} pixels; got {path}; {error}") from error
    except PliantError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(formats)
        raise UnreadableImageError(f"image: must be one of {known}; got {path}; it is none, or is broken") from error
    except _BROKEN as error:
        raise UnreadableImageError(f"image: must be whole; got {path}; it is broken: {error}") from error


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        got = f"{path} with {size[0]}x{size[1]}"
        fail("image", f"must have at most {MAX_PIXELS:,} pixels", got, "cut it into tiles", kind=HugeImageError)
    if max(size) > MAX_ASPECT * min(size):
        rule, got = f"must be at most {MAX_ASPECT} times as long as wide", f"{path} with {size[0]}x{size[1]}"
        fail("image", rule, got, "cut it into tiles", kind=UnreadableImageError)


def _orientation(image: Image.Image) -> int:
    # Pillow decodes a PNG to its end in search of EXIF; only an EXIF block before the pixels is looked at.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return orientation if orientation in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray(_sixteen_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns when it takes such a palette straight to RGB; the colours are the same.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _sixteen_to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale 0..65535 to 0..255, rounding; converting mode "I" to RGB would clip all above 255 to white."""
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError(f"32-bit pixels from {values.min()} to {values.max()} have no agreed range")
    wide = torch.from_numpy(values.astype(np.int64))
    eight: np.ndarray = ((wide * 255 + 32767) // 65535).to(torch.uint8).numpy()
    return eight
