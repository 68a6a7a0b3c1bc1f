# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows runs: README's Python, every example in a docstring, every link, every command."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pliant

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def anchor(heading: str) -> str:
    """Return the fragment under which a heading of Markdown is found."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to files, or to headings in them, that are not there."""
    broken = []
    for target in ("".join(pair) for pair in LINK.findall(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists():
            broken.append(target)
        elif fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if fragment not in map(anchor, headings):
                broken.append(target)
    return broken


def modules_with_examples() -> Iterator[str]:
    """Yield the modules of pliant whose source holds a `>>>`."""
    source = Path(pliant.__path__[0])
    for path in sorted(source.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__")


README_PYTHON = blocks(ROOT / "README.md", "python")


def test_readme_has_python() -> None:
    assert len(README_PYTHON) >= 2


@pytest.mark.parametrize("code", README_PYTHON, ids=[f"block {i}" for i in range(len(README_PYTHON))])
def test_readme_python_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    if "plan(" in code:
        assert capsys.readouterr().out.count("layer2") >= 4
    else:
        assert isinstance(y := scope["y"], torch.Tensor)
        assert y.shape == (2, 8, 20, 24)


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_docstring_examples(name: str) -> None:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_public_functions_have_examples() -> None:
    lacking = []
    for page in (pliant, pliant.ops, pliant.nn):
        tree = ast.parse(Path(str(page.__file__)).read_text(encoding="utf-8"))
        for name in (alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names):
            public = getattr(page, str(name))
            if callable(public) and ">>>" not in (public.__doc__ or ""):
                lacking.append(f"{page.__name__}.{name}")
    assert lacking == []


@pytest.mark.parametrize("page", PAGES, ids=[p.relative_to(ROOT).as_posix() for p in PAGES])
def test_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One Two\n[a](#one-two) [b](#three) [c](gone.md) ![d](no.png) [e](https://x.org) [f](page.md)\n")
    assert broken_links(page) == ["#three", "gone.md", "no.png"]


def test_commands_of_the_readme_parse() -> None:
    from pliant.cli import build_parser

    lines = [line for body in blocks(ROOT / "README.md", "console") for line in body.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("pliant ")]
    assert {command[0] for command in commands} >= {"train", "eval", "predict"}
    for command in commands:
        assert build_parser().parse_args(command)


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", "\n".join(p.read_text("utf-8") for p in PAGES), re.MULTILINE))
    assert named >= {"demo", "test"}
    assert named <= targets


def test_changelog_opens_with_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = re.search(r"^## \[?([^\]\s]+)\]?", changelog, re.MULTILINE)
    assert entry is not None
    assert entry[1] == pliant.__version__
