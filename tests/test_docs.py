# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows holds: examples in docstrings, links, commands, targets of make."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import pliant
from helpers.pages import PAGES, ROOT, blocks, page_name
from pliant.cli import build_parser
from pliant.cli.options import given_options
from pliant.train import TrainConfig
from pliant.train.config import GROUPS, overridden
from pliant.train.recipes import recipe

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


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


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_docstring_examples(name: str) -> None:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


# The packages whose public pages are for users; what the others export is for pliant itself.
PUBLIC = (
    *("pliant", "pliant.ops", "pliant.nn", "pliant.surgery", "pliant.analysis", "pliant.data", "pliant.evaluation"),
    *("pliant.backbones", "pliant.detection", "pliant.segmentation", "pliant.classification", "pliant.checkpoints"),
    *("pliant.compat", "pliant.export"),
)


def lacking_examples(page: ModuleType) -> list[str]:
    """Return the functions of pliant that a package's public page exports and that show no example."""
    exported = [value for name, value in vars(page).items() if not name.startswith("_") and inspect.isfunction(value)]
    ours = [value for value in exported if value.__module__.startswith("pliant.")]
    return [f"{page.__name__}.{value.__name__}" for value in ours if ">>>" not in (value.__doc__ or "")]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_examples(name: str) -> None:
    assert lacking_examples(importlib.import_module(name)) == []


def test_a_lacking_example_is_found() -> None:
    page = ModuleType("pliant.page")
    exec('def shown():\n    ">>> shown()"\ndef bare():\n    "Say nothing."\ndef _own():\n    ""', vars(page))
    for name in ("shown", "bare", "_own"):
        vars(page)[name].__module__ = "pliant.page"
    assert lacking_examples(page) == ["pliant.page.bare"]


def test_layers_have_examples() -> None:
    layers = [value for value in vars(pliant.nn).values() if inspect.isclass(value)]
    assert len(layers) == 3
    assert all(">>>" in (layer.__doc__ or "") for layer in layers)


def test_links_resolve() -> None:
    broken = {page_name(page): broken_links(page) for page in PAGES}
    assert {page: links for page, links in broken.items() if links} == {}


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One Two\n[a](#one-two) [b](#three) [c](gone.md) ![d](no.png) [e](https://x.org) [f](page.md)\n")
    assert broken_links(page) == ["#three", "gone.md", "no.png"]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of each `pliant` command that a page shows, launched by another program or not."""
    text = "\n".join(blocks(page, "console") + blocks(page, "sh")).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line[line.index("pliant") + 1 :] for line in words if "pliant" in line and line[0] not in ("pip", "make")]


def test_commands_of_the_pages_would_run() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert {command[0] for command in commands(ROOT / "README.md")} >= {"train", "eval", "predict", "explain", "export"}
    assert len(found) > 60
    for command in found:
        arguments = build_parser().parse_args(command)
        if command[0] == "train" and not arguments.list_recipes and arguments.resume is None:
            settings = dict(recipe(arguments.recipe).settings) if arguments.recipe is not None else {}
            # What is refused later: values out of range, and options that have nothing to do with the model.
            given = {"data": "of the page", **given_options(arguments, *GROUPS)}
            TrainConfig.from_dict(overridden(settings, given))


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+)%?:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", "\n".join(p.read_text("utf-8") for p in PAGES), re.MULTILINE))
    assert named >= {"demo", "test"}
    assert named <= targets


def test_changelog_opens_with_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = re.search(r"^## \[?([^\]\s]+)\]?", changelog, re.MULTILINE)
    assert entry is not None
    assert entry[1] == pliant.__version__
