# SPDX-License-Identifier: Apache-2.0
"""`make wheels`: the sdist, a wheel without the CPU library, and one with it for each file of release/toolchains.

Every library is cross-compiled by Zig's Clang, which brings the headers and libraries of all platforms. What comes out
is checked: tags, contents, and what the library asks of a machine (`inspection.py`, and auditwheel for Linux).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from scikit_build_core.build import build_sdist, build_wheel

from inspection import WheelError, check_wheel

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sysconfig.get_path("scripts"))
TOOLCHAINS = ROOT / "release" / "toolchains"
PLATFORMS = sorted(path.stem for path in TOOLCHAINS.glob("*_*.cmake"))


def use_zig(build: Path) -> None:
    """Tell the toolchain files where Zig is, and keep what it compiles of its own in the build folder."""
    files = importlib.metadata.files("ziglang") or []
    program = next(file for file in files if file.name in ("zig", "zig.exe") and file.parent.name == "ziglang")
    os.environ["ZIG"] = str(Path(str(program.locate())).resolve())
    os.environ["ZIG_GLOBAL_CACHE_DIR"] = os.environ["ZIG_LOCAL_CACHE_DIR"] = str(build / "zig")


def check_policy(path: Path, platform: str) -> None:
    """Stop where auditwheel names a newer C library than `platform` promises."""
    # Nothing is looked up among this machine's own libraries: they are other processors' and another C library's.
    command = [sys.executable, "-m", "auditwheel", "show", "--ldpaths", "", str(path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r'platform tag:\s+"([a-z]+)_(\d+)_(\d+)_(\w+)"', shown)
    promised = re.fullmatch(r"([a-z]+)_(\d+)_(\d+)_(\w+)", platform)
    if found is None or promised is None or (found[1], found[4]) != (promised[1], promised[4]):
        raise WheelError(f"auditwheel does not find {platform}: {shown}")
    if (int(found[2]), int(found[3])) > (int(promised[2]), int(promised[3])):
        raise WheelError(f"auditwheel finds {found[0]}, not {platform}")


def wheel_for(platform: str, build: Path, out: Path) -> Path:
    """Compile the library for `platform` and return the wheel that holds it, checked."""
    raw = build / "raw" / platform
    shutil.rmtree(raw, ignore_errors=True)
    name = build_wheel(
        str(raw),
        {
            "build-dir": str(build / platform),
            "cmake.toolchain-file": str(TOOLCHAINS / f"{platform}.cmake"),
            "install.strip": "false",  # the machine's own `strip` knows its own files alone; the linker has done it
            "wheel.tags": f"py3-none-{platform}",
        },
    )
    made = raw / name
    if "linux" in platform:
        check_policy(made, platform)
    check_wheel(made, platform)
    return Path(shutil.move(made, out / made.name))


def run_tests(platform: str, build: Path) -> None:
    """Run the C++ tests against the library for `platform`, in the emulator that its toolchain file names."""
    folder = str(build / platform)
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAINS / platform}.cmake"
    configure = [TOOLS / "cmake", "-S", str(ROOT), "-B", folder, "-G", "Ninja", toolchain, "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run([*configure, "-DPLIANT_BUILD_TESTS=ON"], check=True)
    subprocess.run([TOOLS / "cmake", "--build", folder], check=True)
    subprocess.run([TOOLS / "ctest", "--test-dir", folder, "--output-on-failure", "--no-tests=error"], check=True)


def build_all(platforms: list[str], build: Path, out: Path) -> None:
    """Build the sdist, the pure wheel and those of `platforms`, and print where they are."""
    made = [out / build_sdist(str(out)), out / build_wheel(str(out), {"wheel.cmake": "false"})]
    check_wheel(made[-1], "any")
    made += [wheel_for(platform, build, out) for platform in platforms]
    for path in made:
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Build or test what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the results")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "wheels", help="folder to compile in, kept")
    parser.add_argument("--tests", action="store_true", help="run the C++ tests of the platforms named, in emulators")
    parser.add_argument("platforms", nargs="*", default=PLATFORMS, metavar="PLATFORM", help=", ".join(PLATFORMS))
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.platforms) - set(PLATFORMS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(PLATFORMS)}")
    out, build = arguments.out.resolve(), arguments.build.resolve()
    os.chdir(ROOT)
    use_zig(build)
    if arguments.tests:
        for platform in arguments.platforms:
            run_tests(platform, build)
    else:
        build_all(arguments.platforms, build, out)


if __name__ == "__main__":
    main()
