# SPDX-License-Identifier: Apache-2.0
"""The wheels for all platforms: what `make wheels` is told, that its checks can fail, and a complete sdist."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import pliant
from inspection import PROCESSORS, SYSTEM, WheelError, check_library, check_wheel
from pliant.ops._native import library

ROOT = Path(__file__).resolve().parent.parent
TOOLCHAINS = sorted((ROOT / "release" / "toolchains").glob("*_*.cmake"))
INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
compiled = pytest.mark.skipif(
    not library.PATH.exists() or sys.platform != "linux", reason="checks the Linux library of this machine"
)


def settings(path: Path) -> dict[str, str]:
    """Return what a toolchain file sets."""
    return dict(re.findall(r"^set\((\w+) (.*)\)$", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", TOOLCHAINS, ids=lambda path: path.stem)
def test_a_toolchain_compiles_for_what_its_file_is_named(path: Path) -> None:
    system, *version, processor = re.match(
        r"([a-z]+)_?(\d+)?_?(\d+)?_(x86_64|aarch64|arm64|amd64)$", path.stem
    ).groups()  # type: ignore[union-attr]
    found = settings(path)
    assert found["CMAKE_SYSTEM_PROCESSOR"].lower() == processor
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(processor, processor)
    dotted = ".".join(part for part in version if part)
    # The C library that musllinux_1_2 means has one interface: musl's version is no part of Zig's names.
    target = {"manylinux": f"linux-gnu.{dotted}", "musllinux": "linux-musl", "macosx": f"macos.{dotted}"}
    assert found["ZIG_TARGET"] == f"{machine}-{target.get(system, 'windows-gnu')}"
    assert found["CMAKE_SYSTEM_NAME"] == {"macosx": "Darwin", "win": "Windows"}.get(system, "Linux")


def test_every_platform_is_checked_and_on_the_page_of_installing() -> None:
    names = {path.stem for path in TOOLCHAINS}
    assert len(names) >= 6
    assert {name.split("_")[0] for name in names} == set(SYSTEM)
    assert all(name.endswith(tuple(PROCESSORS)) for name in names)
    assert {name for name in names if f"`{name}`" not in INSTALL} == set()


def test_the_oldest_pytorch_is_one_number_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest,) = (re.fullmatch(r"torch>=([\d.]+)", need)[1] for need in project["dependencies"])  # type: ignore[index]
    for page in (INSTALL, (ROOT / "README.md").read_text(encoding="utf-8")):
        assert re.findall(r"PyTorch >= ([\d.]+\d)", page) != []
        assert set(re.findall(r"PyTorch >= ([\d.]+\d)", page)) == {oldest}
    pinned = re.search(r"^torch==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None and f"`make test-version-{pinned[1]}`" in INSTALL


@compiled
def test_the_library_of_this_machine_passes_and_for_others_is_refused() -> None:
    content = library.PATH.read_bytes()
    here, other = ("x86_64", "aarch64") if content[18] == 0x3E else ("aarch64", "x86_64")
    check_library(content, f"manylinux_2_17_{here}")
    with pytest.raises(WheelError, match=f"the library is for .*, the wheel for {other}"):
        check_library(content, f"manylinux_2_17_{other}")
    with pytest.raises(WheelError, match=r"the library asks for .*libc\.so\.6"):
        check_library(content, f"musllinux_1_2_{here}")
    with pytest.raises(WheelError, match="is none that any system could load"):
        check_library(content[4:], f"manylinux_2_17_{here}")


@compiled
def test_a_library_with_another_export_is_refused() -> None:
    content = library.PATH.read_bytes()
    processor = "x86_64" if content[18] == 0x3E else "aarch64"
    renamed = content.replace(b"pliant_abi_version\0", b"pliant_abi_versioN\0")
    assert renamed != content
    with pytest.raises(WheelError, match="exports pliant_abi_versioN, .*; abi.h declares pliant_abi_version, "):
        check_library(renamed, f"manylinux_2_17_{processor}")


def made_wheel(folder: Path, *, name: str = "pliant-1.2-py3-none-any.whl", **changed: str) -> Path:
    """Write a wheel of the smallest right contents, and of what is `changed`: files by name."""
    files = {
        "pliant-1.2.dist-info/METADATA": "Name: pliant\nVersion: 1.2\n",
        "pliant-1.2.dist-info/WHEEL": "Root-Is-Purelib: true\n",
        "pliant/_version.py": '__version__ = "1.2"\n',
        "pliant_command/__init__.py": "",
        **changed,
    }
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return folder / name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "pliant-1.2-cp311-none-any.whl"}, "named for other Pythons"),
        ({"name": "pliant-1.2-py3-none-win_amd64.whl"}, "not named for any"),
        ({"name": "pliant-1.3-py3-none-any.whl"}, "holds other packages"),
        ({"pliant-1.2.dist-info/METADATA": "Version: 1.1\n"}, "its metadata says version 1.1"),
        ({"pliant/_version.py": '__version__ = "1.1"\n'}, "pliant.__version__ is another"),
        ({"pliant-1.2.dist-info/WHEEL": "Root-Is-Purelib: false\n"}, "Root-Is-Purelib is False"),
        ({"pliant/ops/_native/libpliant_cpu.so": ""}, r"holds pliant/ops/_native/libpliant_cpu\.so"),
        ({"tests/test_wheels.py": ""}, "holds other packages"),
    ],
)
def test_a_wheel_with_one_fault_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    check_wheel(made_wheel(tmp_path), "any")
    with pytest.raises(WheelError, match=message):
        check_wheel(made_wheel(tmp_path, **change), "any")


def test_a_wheel_of_a_platform_holds_that_platforms_library(tmp_path: Path) -> None:
    binary = {"pliant-1.2.dist-info/WHEEL": "Root-Is-Purelib: false\n", "pliant/ops/_native/libpliant_cpu.so": ""}
    path = made_wheel(tmp_path, name="pliant-1.2-py3-none-win_amd64.whl", **binary)
    with pytest.raises(WheelError, match=r"holds pliant/ops/_native/libpliant_cpu\.so, not .*libpliant_cpu\.dll"):
        check_wheel(path, "win_amd64")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    from scikit_build_core.build import build_sdist

    folder = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = build_sdist(str(folder))
    assert name == f"pliant-{pliant.__version__}.tar.gz"
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


def test_an_sdist_holds_all_sources_and_nothing_built(sdist: Path) -> None:
    wanted = {"LICENSE", "README.md", "CMakeLists.txt", "Makefile", "pyproject.toml", "constraints.txt", "mkdocs.yml"}
    for folder in ("src", "tests", "release", "docs"):
        wanted |= {
            path.relative_to(ROOT).as_posix()
            for suffix in ("py", "cpp", "h", "cmake", "toml", "typed", "html", "js", "css", "md")
            for path in (ROOT / folder).rglob(f"*.{suffix}")
        }
    found = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert wanted - found == set() and len(wanted) > 300
    assert [name for name in found if name.endswith((".so", ".dylib", ".dll", ".pyc", ".whl"))] == []


def test_a_wheel_can_be_made_from_the_sdist(sdist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scikit_build_core.build import build_wheel

    monkeypatch.chdir(sdist)
    name = build_wheel(str(sdist.parent), {"wheel.cmake": "false"})
    check_wheel(sdist.parent / name, "any")
    here = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    with zipfile.ZipFile(sdist.parent / name) as archive:
        assert here - set(archive.namelist()) == set() and len(here) > 100
