# SPDX-License-Identifier: Apache-2.0
"""Reading images: modes, orientation, bombs, and files that are broken at every place."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.data_sets import HEIGHT, WIDTH, Make, cut, save_noise
from pliant.data import Problem, UnreadableImageError, open_detection, read_image
from pliant.data.images import HugeImageError, read_header

# Two rows, three columns, all six colours different.
PIXELS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[250, 250, 0], [0, 250, 250], [10, 20, 30]]], dtype=np.uint8
)


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_colours_come_through_whatever_the_mode(tmp_path: Path, mode: str, kind: str) -> None:
    if (mode, kind) == ("CMYK", "png"):
        kind = "jpg"
    image = Image.fromarray(np.repeat(np.repeat(PIXELS, 16, 0), 16, 1))
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    options = {"quality": 100} if kind == "jpg" else {}
    got = read_image(saved(tmp_path, image, f"a.{kind}", **options))
    assert (got.dtype, tuple(got.shape), got.is_contiguous()) == (torch.uint8, (3, 32, 48), True)
    centre = got[:, 8::16, 8::16].permute(1, 2, 0).int()  # (2, 3, 3)
    assert (centre - torch.from_numpy(PIXELS).int()).abs().max() <= (4 if kind == "jpg" else 0)


def test_alpha_is_left_out_and_transparent_palettes_keep_their_colours(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (9, 8, 7, 0))
    assert read_image(saved(tmp_path, clear))[:, 0, 0].tolist() == [9, 8, 7]
    palette = Image.fromarray(PIXELS).quantize(8)
    assert read_image(saved(tmp_path, palette, transparency=b"\x00\x80\xff"))[:, 1, 2].tolist() == [10, 20, 30]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65407, 65535]], dtype=np.uint16)
    expected = [[0, 0, 1, 1], [127, 128, 255, 255]]  # v * 255 / 65535 = v / 257: 128.5 is the half
    for name in ("a.png", "a.tif"):
        got = read_image(saved(tmp_path, Image.fromarray(values), name))
        assert [channel.tolist() for channel in got] == [expected] * 3


def test_pixels_without_an_agreed_range_are_refused(tmp_path: Path) -> None:
    for values in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70000, np.int32)):
        with pytest.raises(UnreadableImageError, match="no agreed range"):
            read_image(saved(tmp_path, Image.fromarray(values), "a.tif"))


# The stored 2 x 3 image, and where an orientation puts its first row: as (row, column) of the three pixels.
FIRST_ROW = {
    1: [(0, 0), (0, 1), (0, 2)],
    2: [(0, 2), (0, 1), (0, 0)],
    3: [(1, 2), (1, 1), (1, 0)],
    4: [(1, 0), (1, 1), (1, 2)],
    5: [(0, 0), (1, 0), (2, 0)],
    6: [(0, 1), (1, 1), (2, 1)],
    7: [(2, 1), (1, 1), (0, 1)],
    8: [(2, 0), (1, 0), (0, 0)],
}


@pytest.mark.parametrize("orientation", FIRST_ROW)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientations(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(PIXELS), name, exif=exif, **({"lossless": True} if "webp" in name else {}))
    got = read_image(path)
    assert [got[:, y, x].tolist() for y, x in FIRST_ROW[orientation]] == PIXELS[0].tolist()
    assert read_header(path).upright_size == (got.shape[2], got.shape[1])
    assert read_header(path).size == (3, 2)
    assert torch.equal(read_image(path, apply_exif=False), torch.from_numpy(PIXELS).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"\xff" * 40])
def test_exif_that_cannot_be_read_says_nothing(tmp_path: Path, name: str, exif: bytes) -> None:
    path = saved(tmp_path, Image.fromarray(PIXELS), name, exif=exif)
    assert read_header(path).orientation == 1
    assert tuple(read_image(path).shape) == (3, 2, 3)


@pytest.mark.parametrize(("stated", "problems"), [((WIDTH, HEIGHT), 1), ((HEIGHT, WIDTH), 0)])
def test_the_stated_size_says_whether_boxes_were_drawn_upright(
    make_coco: Make, stated: tuple[int, int], problems: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    entry = {"id": 1, "file_name": "1.jpg", "width": stated[0], "height": stated[1]}
    root = make_coco([{"bbox": [1, 2, 30, 9], "image_id": 1}], images=[entry])
    save_noise(root / "train2017" / "1.jpg", exif=exif)
    dataset = open_detection(root, "train")
    assert tuple(dataset[0][0].shape) == (3, stated[1], stated[0])
    assert dataset.report.count(Problem.TURNED_IMAGE) == dataset.report.count() == problems


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [13_500, 20_000, 2_000_000])
def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(side, side))
    with pytest.raises(HugeImageError, match=r"image: must have at most 178,956,970 pixels; got .*bomb\.png"):
        read_image(path)


@pytest.mark.parametrize("size", [(1, 101), (5000, 49)])
def test_a_stripe_is_refused_since_nothing_of_it_is_left_when_resized(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(
        UnreadableImageError, match=rf"at most 100 times as long as wide; got .* with {size[0]}x{size[1]}"
    ):
        read_image(save_noise(tmp_path / "stripe.png", size))
    assert read_header(save_noise(tmp_path / "narrow.png", (3, 300))).size == (3, 300)


def test_a_large_image_below_the_limit_is_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_that_claims(10_000, 9_500))
    assert read_header(path).size == (10_000, 9_500)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.bmp", "a.gif"])
def test_broken_files_raise_one_kind_of_error(tmp_path: Path, name: str) -> None:
    """Cut off at, and changed at, many places; whatever Pillow makes of it, nothing else comes out."""
    path = save_noise(tmp_path / name, (23, 17))
    content = path.read_bytes()
    places = np.random.default_rng(7).integers(0, len(content), 60).tolist()
    refused = 0
    for place in places:
        changed = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        for broken in (content[:place], changed):
            path.write_bytes(broken)
            try:
                assert read_image(path).shape[0] == 3
            except UnreadableImageError as error:
                refused += 1
                assert "image: must be" in str(error)  # noqa: PT017 - some changes leave a readable image
    assert refused >= 50


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(
        UnreadableImageError, match=r"image: must be one of JPEG, PNG, .*; got .*a\.jpg; it is of another"
    ):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match=r"got .*b\.jpg; no such file is there"):
        read_image(tmp_path / "b.jpg")


def test_bombs_and_broken_headers_are_left_out_when_the_data_are_opened(make_coco: Make) -> None:
    folder = make_coco() / "train2017"
    (folder / "2.jpg").write_bytes(png_that_claims(20_000, 20_000))
    cut(folder / "3.jpg", 0.01)
    report = open_detection(folder.parent, "train").report
    assert report.images == 2
    assert [name.split(":")[0] for name in report.names(Problem.HUGE_IMAGE)] == ["2.jpg"]
    assert [name.split(":")[0] for name in report.names(Problem.UNREADABLE_IMAGE)] == ["3.jpg"]
