# SPDX-License-Identifier: Apache-2.0
"""What a wheel holds and what the library in it asks of a machine, against what its platform tag promises."""

from __future__ import annotations

import email
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import lief

HEADER = Path(__file__).resolve().parent.parent / "src/pliant/ops/_native/abi.h"
PROCESSORS = {
    "x86_64": {lief.ELF.ARCH.X86_64, lief.MachO.Header.CPU_TYPE.X86_64},
    "aarch64": {lief.ELF.ARCH.AARCH64},
    "arm64": {lief.MachO.Header.CPU_TYPE.ARM64},
    "amd64": {lief.PE.Header.MACHINE_TYPES.AMD64},
}
# By the start of a platform: the library's file type, and which others it may ask for. All are part of the system.
SYSTEM = {
    "manylinux": ("so", re.compile(r"libc\.so\.6|libm\.so\.6|ld-linux-[\w-]+\.so\.\d")),
    "musllinux": ("so", re.compile(r"libc\.musl-\w+\.so\.1")),
    "macosx": ("dylib", re.compile(r"/usr/lib/libSystem\.B\.dylib")),
    "win": ("dll", re.compile(r"KERNEL32\.dll|ntdll\.dll|ucrtbase\.dll|api-ms-win-crt-[\w-]+\.dll", re.IGNORECASE)),
}


# Zig's linker exports these beside ours. macOS looks a name up in the library it was linked to: they collide with none.
OF_THE_LINKER = {"__dso_handle", "_mh_dylib_header"}


class WheelError(Exception):
    """A wheel that does not hold what its name promises."""


def declared_functions() -> set[str]:
    """Return the names of the functions that the library exports."""
    return set(re.findall(r"^PLIANT_API [^;(]*?(\w+)\(", HEADER.read_text(encoding="utf-8"), re.MULTILINE))


def _require(good: bool, what: str) -> None:
    if not good:
        raise WheelError(what)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _needed_and_exported(binary: lief.Binary) -> tuple[set[str], set[str]]:
    if isinstance(binary, lief.ELF.Binary):
        return set(binary.libraries), {str(symbol.name) for symbol in binary.exported_symbols}
    if isinstance(binary, lief.MachO.Binary):
        own = lief.MachO.LoadCommand.TYPE.ID_DYLIB
        needed = {library.name for library in binary.libraries if library.command != own}
        return needed, {str(symbol.name).removeprefix("_") for symbol in binary.exported_symbols} - OF_THE_LINKER
    assert isinstance(binary, lief.PE.Binary)
    export = binary.get_export()
    return {entry.name for entry in binary.imports}, {entry.name for entry in export.entries} if export else set()


def check_library(content: bytes, platform: str) -> None:
    """Raise `WheelError` where a library is for another platform, asks for other libraries, or exports other names."""
    binary = lief.parse(content)
    _require(binary is not None, "the library is none that any system could load")
    header = binary.header
    machine = getattr(header, "machine_type", None) or getattr(header, "cpu_type", None) or header.machine
    processor = next(name for name in PROCESSORS if platform.endswith(name))
    _require(machine in PROCESSORS[processor], f"the library is for {machine}, the wheel for {processor}")
    needed, exported = _needed_and_exported(binary)
    _, system = SYSTEM[platform.split("_", maxsplit=1)[0]]
    foreign = {name for name in needed if not system.fullmatch(name)}
    _require(not foreign, f"the library asks for {_listed(foreign)}")
    _require(
        exported == declared_functions(),
        f"the library exports {_listed(exported)}; abi.h declares {_listed(declared_functions())}",
    )
    if isinstance(binary, lief.MachO.Binary):
        _check_macos(binary, platform)


def _check_macos(binary: lief.MachO.Binary, platform: str) -> None:
    promised = [int(part) for part in re.findall(r"\d+", platform)[:2]]
    oldest = list(binary.build_version.minos[:2])
    _require(oldest == promised, f"the library needs macOS {oldest}, the wheel promises {promised}")
    if platform.endswith("arm64"):
        _require(binary.has_code_signature, "the library has no signature, without which macOS on arm64 loads nothing")


def check_wheel(path: Path, platform: str) -> None:
    """Raise `WheelError` where a wheel's name, metadata, contents or library are not those of `platform`."""
    distribution, version, python, abi, tags = path.name.removesuffix(".whl").split("-")
    _require((distribution, python, abi) == ("pliant", "py3", "none"), f"{path.name}: is named for other Pythons")
    _require(platform in tags.split("."), f"{path.name}: is not named for {platform}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        info = f"pliant-{version}.dist-info"
        _require(
            {name.split("/")[0] for name in names} == {"pliant", "pliant_command", info},
            f"{path.name}: holds other packages",
        )
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        _require(metadata["Version"] == version, f"{path.name}: its metadata says version {metadata['Version']}")
        stated = f'__version__ = "{version}"' in archive.read("pliant/_version.py").decode()
        _require(stated, f"{path.name}: pliant.__version__ is another")
        pure = email.message_from_bytes(archive.read(f"{info}/WHEEL"))["Root-Is-Purelib"] == "true"
        _require(pure == (platform == "any"), f"{path.name}: Root-Is-Purelib is {pure}")
        libraries = [name for name in names if name.endswith((".so", ".dylib", ".dll", ".lib", ".a", ".pdb"))]
        if platform == "any":
            _require(not libraries, f"{path.name}: holds {_listed(libraries)}")
            return
        suffix, _ = SYSTEM[platform.split("_", maxsplit=1)[0]]
        wanted = [f"pliant/ops/_native/libpliant_cpu.{suffix}"]
        _require(libraries == wanted, f"{path.name}: holds {_listed(libraries)}, not {wanted[0]}")
        check_library(archive.read(wanted[0]), platform)
