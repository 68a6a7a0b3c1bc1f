# SPDX-License-Identifier: Apache-2.0
"""The rules of the tests' own tree: tests stand in folders named as in src, and what they share stands in helpers."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SHARED = {"helpers", "oracles"}  # the packages that tests import
# Folders of tests that have no package of that name in src.
OTHERS = {"accuracy", "gpu", "native"}


def imported(source: str) -> set[str]:
    """Return the dotted names of what a file imports, `from . import a` with its dots."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def borrowed(source: str, folders: Iterable[str]) -> list[str]:
    """Return what a file imports from folders of tests, or from the file beside it."""
    parts = {name: name.split(".") for name in imported(source)}
    return sorted(n for n, p in parts.items() if not p[0] or p[0] in folders or p[-1].startswith(("test_", "conftest")))


FILES = sorted(TESTS.rglob("*.py"))
FOLDERS = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}


def test_no_test_imports_another() -> None:
    assert len(FILES) > 100
    found = {path.relative_to(TESTS).as_posix(): borrowed(path.read_text(encoding="utf-8"), FOLDERS) for path in FILES}
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from .test_coco import Make", ".test_coco"),
        ("from .conftest import cut", ".conftest"),
        ("from data.conftest import cut", "data.conftest"),
        ("import train.test_run", "train.test_run"),
        ("from test_docs import blocks", "test_docs"),
    ],
)
def test_a_test_that_imports_another_is_found(source: str, fault: str) -> None:
    assert borrowed(source, {"data", "train"}) == [fault]
    assert borrowed("from helpers.pages import PAGES\nimport pliant.data", {"data", "train"}) == []


def test_only_what_tests_share_is_a_package() -> None:
    folders = {path.parent for path in FILES if path.parent != TESTS}
    packages = {folder for folder in folders if (folder / "__init__.py").is_file()}
    assert packages == {folder for folder in folders if folder.relative_to(TESTS).parts[0] in SHARED}


def test_folders_of_tests_are_named_as_in_src() -> None:
    packages = {path.name for path in (TESTS.parent / "src" / "pliant").iterdir() if path.is_dir()}
    assert packages | OTHERS >= FOLDERS
    assert {path.name for path in TESTS.iterdir()} >= OTHERS


def test_helpers_hold_no_tests() -> None:
    assert [path.name for name in SHARED for path in (TESTS / name).rglob("test_*.py")] == []
