# SPDX-License-Identifier: Apache-2.0
"""The Python of each page runs once, in order, and gives the shapes and the text that the page says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from helpers.pages import PAGES, ROOT, blocks, page_name
from pliant.nn import DeformRoIPool
from pliant.surgery import plan

# data.md reads a folder of its reader's.
WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and page.name != "data.md"]
STATEMENT = re.compile(r"^(\w+(?:, \w+)*) = .*# (.*)$", re.MULTILINE)
SHAPE = re.compile(r"(?:(\w+) )?\((\d+(?:, \d+)*),?\)")


def wrong_shapes(code: str, scope: Mapping[str, Any]) -> list[str]:
    """Return the shapes which the comments of `code` state and its results do not have.

    `a, b = f()  # (2, 3) pixels, (4,)` states a shape for each name; `r = f()  # labels (4,), scores (4,)` states
    those of a dict's entries.
    """
    wrong = []
    for line in STATEMENT.finditer(code):
        names, stated = line[1].split(", "), SHAPE.findall(line[2])
        for k, (key, numbers) in enumerate(stated):
            value = scope[names[k]] if len(names) == len(stated) else scope[names[0]][key]
            shape = tuple(int(number) for number in numbers.split(", "))
            if tuple(value.shape) != shape:
                wrong.append(f"{line[0]}: {tuple(value.shape)}")
    return wrong


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_name)
def test_python_of_a_page_runs(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where what a page writes may stay
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), scope)
        assert wrong_shapes(code, scope) == []
    printed = capsys.readouterr().out
    if shown := blocks(page, "text"):
        assert printed == "".join(shown)
    if page.name == "README.md":
        assert printed.count("Conv2d  DeformConv2d") == 13  # as the comment beside it says


def test_the_pages_have_python_shapes_and_text() -> None:
    assert {page.name for page in WITH_PYTHON} > {"README.md", "surgery.md", "roi_pooling.md", "mimicking.md"}
    assert [page.name for page in WITH_PYTHON if blocks(page, "text")] == ["surgery.md"]
    code = "\n".join(code for page in WITH_PYTHON for code in blocks(page, "python"))
    assert sum(len(SHAPE.findall(comment)) for _, comment in STATEMENT.findall(code)) >= 8


def test_wrong_shapes_are_found() -> None:
    scope = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "r": {"labels": torch.zeros(5), "scores": torch.zeros(6)}}
    assert wrong_shapes("a = f()  # (2, 3)\na, b = f(a)  # (2, 3) pixels, (4,)\n", scope) == []
    assert wrong_shapes("r = f()  # labels (5,), scores (6,), best first", scope) == []
    assert wrong_shapes("a, b = f()  # (2, 3), (5,)", scope) == ["a, b = f()  # (2, 3), (5,): (4,)"]
    assert wrong_shapes("r = f()  # labels (5,), scores (5,)", scope) == ["r = f()  # labels (5,), scores (5,): (6,)"]


def test_surgery_states_the_numbers_of_its_plans() -> None:
    text = (ROOT / "docs" / "surgery.md").read_text(encoding="utf-8")
    models = torchvision.models
    with torch.device("meta"):
        counts = {name: len(plan(getattr(models, name)(), "c3-c5")) for name in ("resnet18", "resnet34", "resnet101")}
        convnext = plan(models.convnext_tiny(), "last1")
    assert counts == {"resnet18": 12, "resnet34": 26, "resnet101": 30}
    assert "12 and 26" in text and "30 in a ResNet-101" in text
    assert convnext.added_parameters == 3 * 49 * (49 * 768 + 1)
    assert "5.5 million" in text


def test_roi_pooling_states_the_parameters_of_its_branches() -> None:
    text = (ROOT / "docs" / "roi_pooling.md").read_text(encoding="utf-8")
    with torch.device("meta"):
        for modulated, column in ((False, 0), (True, 1)):
            count = sum(p.numel() for p in DeformRoIPool(7, 256, modulated=modulated).parameters()) / 1e6
            assert re.findall(r"(\d+\.\d+) M \(paper\)", text)[column] == f"{count:.3f}"
        branches = [sum(p.numel() for p in DeformRoIPool(bins, 256).parameters()) for bins in (7, 14)]
    one = sum(branches) / 1e6
    assert f"that is {4 * one:.0f} million parameters in place of {one:.0f}" in text.replace("\n", " ")
