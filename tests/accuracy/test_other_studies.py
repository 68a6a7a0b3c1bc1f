# SPDX-License-Identifier: Apache-2.0
"""The plans of ablations and of scenes: each arm is what its name says, and no run is planned twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy import ablations, instances, segmentation, warped  # noqa: E402
from benchmarks.accuracy.scenes import Study  # noqa: E402

from pliant.demo.shapes import Settings, Shapes  # noqa: E402
from pliant.nn import DeformConv2d  # noqa: E402


def _layers(arm: str) -> list[DeformConv2d]:
    return [m for m in ablations.build(ablations.ARMS[arm]).modules() if isinstance(m, DeformConv2d)]


@pytest.mark.filterwarnings("ignore:mask_scale=1.0 starts each converted layer at 0.5")
def test_each_ablation_changes_what_it_names() -> None:
    assert [len(_layers(f"layers-{n}")) for n in (1, 3, 4)] == [1, 3, 4]
    assert len(_layers("base")) == 2 and not _layers("atrous-2")
    for arm, name, value in (
        ("base", "mask_scale", 2.0),
        ("mask-scale-1", "mask_scale", 1.0),
        ("unmodulated", "modulated", False),
        ("offset-groups-4", "offset_groups", 4),
        ("offset-limit-2", "offset_limit", 2.0),
    ):
        assert [getattr(layer, name) for layer in _layers(arm)] == [value] * 2, arm
    rates = {arm: given.rate for arm, given in ablations.ARMS.items() if given.rate != 0.3}
    assert rates == {"rate-0.01": 0.01, "rate-0.1": 0.1, "rate-1": 1.0}


@pytest.mark.parametrize(("arm", "sizes"), [("atrous-2", (12, 6)), ("atrous-4", (12, 6)), ("base", (12, 6))])
def test_maps_keep_their_sizes(arm: str, sizes: tuple[int, int]) -> None:
    model = ablations.build(ablations.ARMS[arm])
    third = model.get_submodule("body")[:3](torch.rand(2, 1, 48, 48))  # type: ignore[index]
    assert (third.shape[-1], model.get_submodule("body.3")(third).shape[-1]) == sizes


def test_plans_hold_no_run_twice() -> None:
    scenes = (segmentation.STUDY.plan("scenes"), 2 * 5 * 5), (instances.STUDY.plan("scenes"), 3 * 14)
    for keys, count in ((ablations.plan(), 3 * 3 * 13), *scenes):
        assert len({str(key) for key in keys}) == len(keys) == count


@pytest.mark.parametrize("study", [segmentation.STUDY, instances.STUDY], ids=["segmentation", "instances"])
def test_networks_of_scenes_differ_in_what_their_arms_name_alone(study: Study) -> None:
    key = {"dataset": "scenes", "epochs": 8, "seed": 1}
    plain, *others = (
        study.config({**key, "arm": arm}, Path("scenes"), Path("mobilenet.pth")).as_dict() for arm in study.arms
    )
    assert plain["deform"] is None and not study.arms["plain"]
    assert (plain["epochs"], plain["seed"]) == (8, 1)
    assert {*study.controls}.union(*study.controls.values()) <= set(study.arms)
    for ours, named in zip(others, list(study.arms.values())[1:], strict=True):
        assert {name for name in ours if ours[name] != plain[name]} == set(named)


def test_a_row_keeps_every_epoch() -> None:
    shapes = Shapes(torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8), torch.arange(6))
    row = warped.measured(warped.build("dcnv1-1"), (shapes, shapes), 1.0, Settings(2, batch=3), 0)
    assert [len(row[name]) for name in ("accuracy", "loss", "cpu_seconds")] == [2, 2, 2]
    assert row["parameters"] == sum(p.numel() for p in warped.build("dcnv1-1").parameters())
