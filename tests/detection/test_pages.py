# SPDX-License-Identifier: Apache-2.0
"""The Python of the detectors' pages runs, and their numbers of parameters are those built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pliant.detection import mask_rcnn
from pliant.nn import DeformRoIPool

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = ("roi_pooling.md", "mask_rcnn.md", "faster_rcnn.md", "rfcn.md", "class_aware_rpn.md", "backbones.md")
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(page, body) for page in PAGES for body in FENCE.findall((DOCS / page).read_text())]


@pytest.mark.parametrize(("page", "code"), BLOCKS, ids=[f"{page} {k}" for k, (page, _) in enumerate(BLOCKS)])
def test_the_python_of_a_page_runs(page: str, code: str) -> None:
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(code, page, "exec"), scope)
    if "regions = " in code:
        assert [tuple(scope[name].shape) for name in ("regions", "offset", "mask")] == [  # type: ignore[attr-defined]
            (1, 256, 7, 7),
            (1, 2, 7, 7),
            (1, 1, 7, 7),
        ]


def test_counted_parameters_are_the_pages() -> None:
    text = (DOCS / "roi_pooling.md").read_text()
    with torch.device("meta"):
        for modulated, column in ((False, 0), (True, 1)):
            count = sum(p.numel() for p in DeformRoIPool(7, 256, modulated=modulated).parameters()) / 1e6
            assert re.findall(r"(\d+\.\d+) M \(paper\)", text)[column] == f"{count:.3f}"
    branches = {bins: sum(p.numel() for p in DeformRoIPool(bins, 256, device="meta").parameters()) for bins in (7, 14)}
    one = sum(branches.values()) / 1e6
    assert f"that is {4 * one:.0f} million parameters in place of {one:.0f}" in text.replace("\n", " ")


def test_both_pools_of_mask_rcnn_have_branches_of_their_own() -> None:
    model = mask_rcnn(3, "resnet18", strides=(16, 32), fpn_channels=4, head_channels=4, roi_pool="deform")
    counts = [
        sum(p.numel() for p in pool.parameters())
        for pool in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool)
    ]
    assert counts == [4 * 49 * 98 + 98, 4 * 196 * 392 + 392]
