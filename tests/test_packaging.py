# SPDX-License-Identifier: Apache-2.0
"""The wheels that users build: what they hold, what they are tagged, and what the library in them asks of a machine."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = re.compile(r"pliant/ops/_native/libpliant_cpu\.(so|dylib|dll)")
BUILD = "import sys; from scikit_build_core.build import build_wheel; build_wheel(sys.argv[1])"
# A build that imports torch fails: PyTorch is no part of building.
NO_TORCH = "import sys; sys.modules['torch'] = None; "
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files with binutils")


def copy_tree(target: Path) -> Path:
    """Copy what a build needs, and a stale library beside the sources, which no wheel may pick up."""
    target.mkdir()
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.dylib"))
    (target / "src/pliant/ops/_native/libpliant_cpu.so").write_bytes(b"stale")
    return target


def build(tree: Path, dist: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the wheel of `tree` into `dist`, without PyTorch."""
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    names = {"PATH": search, "PLIANT_NO_NATIVE": "", "SKBUILD_BUILD_DIR": str(tree / "build/native"), **environment}
    command = [sys.executable, "-c", NO_TORCH + BUILD, str(dist)]
    return subprocess.run(
        command, cwd=tree, env={**os.environ, **names}, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the wheel with the compiled library. What `make native` has compiled is not compiled again."""
    dist = tmp_path_factory.mktemp("native")
    done = build(ROOT, dist)
    assert done.returncode == 0, done.stdout + done.stderr
    return dist


def wheel(dist: Path) -> Path:
    """Return the one wheel of a folder."""
    (path,) = dist.glob("*.whl")
    return path


def members(path: Path) -> list[str]:
    """Return the names of the files in a wheel."""
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def metadata(path: Path) -> str:
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


@pytest.fixture(scope="module")
def library(native: Path) -> Path:
    """The library as it lies in the wheel."""
    with zipfile.ZipFile(wheel(native)) as archive:
        (name,) = (n for n in archive.namelist() if LIBRARY.fullmatch(n))
        return Path(archive.extract(name, native / "unpacked"))


def output(*command: str | Path) -> str:
    """Return what a tool prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_wheel_serves_every_python_and_pytorch(native: Path) -> None:
    assert re.fullmatch(r"pliant-[\d.]+-py3-none-(linux|macosx|win)\w+\.whl", wheel(native).name)
    names = members(wheel(native))
    assert len([name for name in names if LIBRARY.fullmatch(name)]) == 1
    assert {"pliant/py.typed", "pliant_command/__init__.py"} < set(names)
    assert [n for n in names if n.endswith((".cpp", ".h", ".hpp", ".o", ".a"))] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pliant", "pliant_command"}


@pytest.mark.slow
def test_metadata_asks_for_torch_alone(native: Path) -> None:
    text = metadata(wheel(native))
    required = re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)
    assert [r for r in required if "extra ==" not in r] == ["torch>=2.6"]
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text


@linux
@pytest.mark.slow
def test_library_asks_for_the_c_library_alone(library: Path) -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library)))
    assert {re.split(r"[.-]", name)[0] for name in needed} <= {"libc", "libm", "ld"}


@linux
@pytest.mark.slow
def test_library_exports_its_c_functions_alone(library: Path) -> None:
    exported = [line.split()[-1] for line in output("nm", "-D", "--defined-only", library).splitlines()]
    header = (ROOT / "src/pliant/ops/_native/abi.h").read_text(encoding="utf-8")
    declared = re.findall(r"^PLIANT_API [^;(]*?(\w+)\(", header, re.MULTILINE)
    assert len(declared) >= 3
    assert sorted(exported) == sorted(declared)


@linux
@pytest.mark.slow
def test_library_chooses_the_widest_instruction_set(library: Path) -> None:
    flags = set(re.findall(r"\S+", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    wanted = {"avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx2", "fma"}, "avx2": {"avx2", "fma"}}
    loaded = ctypes.CDLL(str(library))
    loaded.pliant_kernels_for.restype = ctypes.POINTER(ctypes.c_char_p)  # the name is the table's first entry
    best = next((name for name, needs in wanted.items() if needs <= flags), "baseline")
    assert loaded.pliant_kernels_for(None)[0] == best.encode()


def objects_for(instruction_set: str) -> list[Path]:
    """Return the compiled kernels of one instruction set, without those left over from sources that are gone."""
    (folder,) = (ROOT / "build/native").glob(f"**/pliant_kernels_{instruction_set}.dir")
    return [path for path in folder.rglob("*.o") if (ROOT / path.relative_to(folder).with_suffix("")).is_file()]


@linux
@pytest.mark.slow
@pytest.mark.usefixtures("native")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiled for one instruction set alone")
@pytest.mark.parametrize("instruction_set", ["avx2", "avx512"])
def test_no_function_of_one_instruction_set_can_serve_another(instruction_set: str) -> None:
    """Weak symbols are merged by the linker: one compiled for AVX-512 under a common name would then run everywhere."""
    kernels = objects_for(instruction_set)
    assert len(kernels) >= 2
    for path in kernels:
        weak = re.findall(r"^\w+ [WV] (.*)$", output("nm", "-C", "--defined-only", path), re.MULTILINE)
        # A pointer to the C++ runtime's handler of exceptions, the same in every copy.
        foreign = [name for name in weak if name != "DW.ref.__gxx_personality_v0"]
        assert [name for name in foreign if f"pliant::{instruction_set}::" not in name] == [], path.name


def test_without_native_the_wheel_is_pure(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    done = build(tree, tmp_path / "dist", PLIANT_NO_NATIVE="1", PATH="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert wheel(tmp_path / "dist").name.endswith("-py3-none-any.whl")
    assert [name for name in members(wheel(tmp_path / "dist")) if LIBRARY.fullmatch(name)] == []
    assert "pliant/ops/__init__.py" in members(wheel(tmp_path / "dist"))
    recipes = {path.name for path in (ROOT / "src/pliant/train/recipes").glob("*.toml")}
    assert {f"pliant/train/recipes/{name}" for name in recipes} < set(members(wheel(tmp_path / "dist")))
    assert len(recipes) > 10


def test_without_a_compiler_the_build_stops_and_names_the_way_out(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    done = build(tree, tmp_path / "dist", CXX=str(tmp_path / "absent-c++"))
    assert done.returncode != 0
    assert "PLIANT_NO_NATIVE=1 pip install ." in done.stdout + done.stderr
    assert not (tmp_path / "dist").exists() or list((tmp_path / "dist").glob("*.whl")) == []
