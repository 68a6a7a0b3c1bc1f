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
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pliant._check import PliantError, fail

# Pillow's own limit of an error. Decoded to RGB this is half a gigabyte.
MAX_PIXELS = 178_956_970

# A longer stripe vanishes where its long side is resized to a size, and fills the memory where its short side is.
MAX_ASPECT = 100

# Formats that need no helper program and that data sets come in. Pillow would also hand EPS to Ghostscript.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".jp2")

# What Pillow raises for files that are not what they claim to be.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError),
    *(AttributeError, RecursionError, struct.error, zlib.error),
)

# The orientation that undoes one: quarter turns undo each other, the others themselves.
_UNDO = {6: 8, 8: 6}
# Rows whose 16-bit values are scaled together: of a whole image the steps between would take gigabytes.
_ROWS = 64


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
        orientation = _orientation(image)
        upright_by_pillow = image.format == "TIFF" and orientation > 4
        return ImageHeader(image.size[::-1] if upright_by_pillow else image.size, orientation)


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
        turned_by_pillow = image.format == "TIFF"  # when it loads the pixels
        pixels = _to_rgb(image)
    if apply_exif and not turned_by_pillow:
        pixels = _turned(pixels, orientation)
    elif turned_by_pillow and not apply_exif:
        pixels = _turned(pixels, _UNDO.get(orientation, orientation))
    # A copy in any case: NumPy's view of the bytes of Pillow is not to be written into.
    return pixels.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)


def is_regular(path: Path) -> bool:
    """Say whether a file is there that can be read to its end: no folder, device or pipe, nor a link to one."""
    try:
        return path.is_file()
    except OSError:  # a name too long for the system, a folder that may not be entered
        return False


@contextmanager
def opened(path: Path | str, formats: tuple[str, ...] = _FORMATS) -> Iterator[Image.Image]:
    """Open an image of one of `formats`, and word everything that goes wrong until it is closed."""
    path = Path(path)
    if not is_regular(path):
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
        raise UnreadableImageError(
            f"image: must be one of {known}; got {path}; it is of another kind, or broken"
        ) from error
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
    """Return the EXIF orientation of an image that is not decoded yet; 1 where there is none that can be read."""
    # Pillow decodes a PNG to its end in search of EXIF; only an EXIF block before the pixels is looked at.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return 1
    return orientation if isinstance(orientation, int) and 2 <= orientation <= 8 else 1


def _turned(pixels: Tensor, orientation: int) -> Tensor:
    """Turn pixels (H, W, 3) as Pillow does for an EXIF orientation."""
    if orientation == 1:
        return pixels
    image = Image.fromarray(pixels.numpy())
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return _pixels(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Tensor:
    """Decode an image to RGB (H, W, 3) uint8."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return _sixteen_to_eight_bits(np.asarray(image))[..., None].expand(-1, -1, 3)
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns when it takes such a palette straight to RGB; the colours are the same.
        image = image.convert("RGBA")
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: Image.Image) -> Tensor:
    with warnings.catch_warnings():
        # NumPy's view of Pillow's bytes is read-only, which PyTorch warns of; nothing writes into it.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.asarray(image))


def _sixteen_to_eight_bits(values: np.ndarray) -> Tensor:
    """Scale 0..65535 to 0..255, rounding; converting mode "I" to RGB would clip all above 255 to white."""
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError(f"32-bit pixels from {values.min()} to {values.max()} have no agreed range")
    scaled = torch.empty(values.shape, dtype=torch.uint8)
    for start in range(0, len(values), _ROWS):
        wide = torch.from_numpy(values[start : start + _ROWS].astype(np.int64))
        scaled[start : start + _ROWS] = (wide * 255 + 32767) // 65535
    return scaled
