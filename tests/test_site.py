# SPDX-License-Identifier: Apache-2.0
"""The site: what its builder changes in pages and docstrings, and that every page can be found in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "_site" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pages(nav: list[Any]) -> list[str]:
    """Return the files that a navigation names, at any depth."""
    found: list[str] = []
    for entry in nav:
        for value in entry.values():
            found += _pages(value) if isinstance(value, list) else [value]
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = _pages(config["nav"])
    assert sorted(named) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md"))


def test_the_site_is_strict_and_its_builder_counts_warnings() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["strict"] is True and set(config["validation"].values()) == {"warn"}
    recipe = next(
        line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "mkdocs build" in line
    )
    assert "--quiet" not in recipe, "with it MkDocs counts no warnings, and strict means nothing"


def test_links_out_of_the_docs_become_text() -> None:
    changed = _load("hooks").on_page_markdown("[a](../b/c.md), [d](e.md), [f](../../g.py) and ![h](i.svg)")
    assert changed == "a (`b/c.md` in the repository), [d](e.md), f (`g.py` in the repository) and ![h](i.svg)"


def test_formulas_become_mathml_and_examples_code() -> None:
    text = "One line.\n\n.. math:: y = a_k + \\\n    b\n\nNow :math:`x^2`.\n\nExample:\n    >>> 1\n"
    changed = _load("docstrings").for_the_site(text.replace("\\\n", "\n"))
    assert changed.count("<math") == 2 and 'display="block"' in changed
    assert "<mi>b</mi>" in changed, "a formula of two lines is whole"
    assert "math::" not in changed and ":math:" not in changed
    assert changed.endswith("Examples:\n    >>> 1\n") and changed.startswith("One line.\n")
