# SPDX-License-Identifier: Apache-2.0
"""The learning rate at each step."""

from __future__ import annotations

import pytest

from pliant.train import TrainConfig
from pliant.train.schedule import lr_factor


def test_onecycle_rises_for_a_fifth_and_ends_at_a_thousandth() -> None:
    config = TrainConfig(data=".", schedule="onecycle")
    factors = [lr_factor(config, step, 101) for step in range(101)]
    assert factors[0] == pytest.approx(0.04)
    assert factors[20] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.5005)
    assert factors[100] == pytest.approx(0.001)
    assert factors == sorted(factors[:21]) + sorted(factors[21:], reverse=True)


def test_warmup_is_at_most_a_tenth_of_the_run() -> None:
    config = TrainConfig(data=".", warmup_steps=500, milestones=(0.5,))
    assert [lr_factor(config, step, 40) for step in (0, 3, 4, 19, 20)] == pytest.approx([0.25, 1.0, 1.0, 1.0, 0.1])


def test_warmup_of_the_official_v1_code_is_constant() -> None:
    settings = {"data": ".", "warmup_steps": 3, "milestones": (0.6667,), "warmup": "constant", "warmup_factor": 0.1}
    config = TrainConfig(**settings)
    assert [lr_factor(config, step, 30) for step in (0, 2, 3, 19, 21)] == pytest.approx([0.1, 0.1, 1.0, 1.0, 0.1])


def test_warmup_of_mmdetection_starts_at_a_third() -> None:
    config = TrainConfig(data=".", warmup_steps=4, milestones=(0.9,), warmup_factor=0.25)
    rise = [lr_factor(config, step, 40) for step in range(6)]
    assert rise == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1.0, 1.0])
