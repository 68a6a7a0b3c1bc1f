# SPDX-License-Identifier: Apache-2.0
"""The page on surgery: its Python runs, and the table it shows is the one that is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision

from pliant.surgery import plan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "surgery.md").read_text(encoding="utf-8")


def test_the_page_runs_and_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    code = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(code) == 2 and len(shown) == 1
    exec(compile("\n".join(code), "surgery.md", "exec"), {})
    assert capsys.readouterr().out == shown[0]


def test_the_numbers_of_the_page_are_right() -> None:
    models = torchvision.models
    with torch.device("meta"):
        counts = {name: len(plan(getattr(models, name)(), "c3-c5")) for name in ("resnet18", "resnet34", "resnet101")}
        convnext = plan(models.convnext_tiny(), "last1")
    assert counts == {"resnet18": 12, "resnet34": 26, "resnet101": 30}
    assert "12 and 26" in PAGE and "30 in a ResNet-101" in PAGE
    assert convnext.added_parameters == 3 * 49 * (49 * 768 + 1)  # 5.5 million
