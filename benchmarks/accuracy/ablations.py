# SPDX-License-Identifier: Apache-2.0
"""One setting of the deformable layers changed at a time: `python -m benchmarks.accuracy.ablations --data DIR`.

Animals turned by any angle, as in `benchmarks.accuracy.warped` at strength 1, whose `DIR` this takes too. The base has
its last two convolutions deformable, with modulation that starts at 1, one offset group, no limit, and branches at
0.3 of the rate. The arms follow the papers' ablations: number of deformable layers (v1, Table 1), atrous convolutions
instead (v1, Table 3), the rate of the offset branches, the scale of the modulation, offset groups, bounded offsets.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy.datasets import load_shapes
from benchmarks.accuracy.driver import drive, study_parser
from benchmarks.accuracy.rows import RESULTS, Key, Row
from benchmarks.accuracy.warped import measured
from pliant.demo.shapes import Settings, deformable, network

ROWS = RESULTS / "ablations.jsonl"
SEEDS, EPOCHS, STRENGTH = 3, (8, 20, 40), 1.0


@dataclass(frozen=True)
class Arm:
    """How an arm is built: deformable layers, their options, the offset branches' rate, and dilation without any."""

    layers: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    rate: float = 0.3
    dilation: int = 1


BASE = "base"
ARMS = {
    BASE: Arm(),
    "layers-1": Arm(layers=1),
    "layers-3": Arm(layers=3),
    "layers-4": Arm(layers=4),
    "rate-0.01": Arm(rate=0.01),
    "rate-0.1": Arm(rate=0.1),
    "rate-1": Arm(rate=1.0),
    "mask-scale-1": Arm(options={"mask_scale": 1.0}),
    "unmodulated": Arm(options={"modulated": False}),
    "offset-groups-4": Arm(options={"offset_groups": 4}),
    "offset-limit-2": Arm(options={"offset_limit": 2.0}),
    "atrous-2": Arm(layers=0, dilation=2),
    "atrous-4": Arm(layers=0, dilation=4),  # on maps of 12 x 12; the paper's 6 and 8 would look outside alone
}


def plan() -> list[Key]:
    """Return all runs, the shorter ones first, seed by seed."""
    return [
        {"dataset": "animals", "strength": STRENGTH, "arm": arm, "epochs": epochs, "seed": seed}
        for epochs, seed, arm in itertools.product(EPOCHS, range(SEEDS), ARMS)
    ]


def build(arm: Arm) -> nn.Sequential:
    """Return the network of an arm."""
    model = network()
    for block in (2, 3):
        conv = model.get_submodule(f"body.{block}.conv")
        assert isinstance(conv, nn.Conv2d)
        conv.dilation = conv.padding = (arm.dilation, arm.dilation)
    return deformable(model, arm.layers, **arm.options) if arm.layers else model


def run(key: Key, data: Path) -> Row:
    """Train and test one network, and return its curve."""
    arm = ARMS[key["arm"]]
    torch.manual_seed(key["seed"])
    settings = Settings(key["epochs"], offset_lr_scale=arm.rate)
    return measured(build(arm), load_shapes(key["dataset"], data), key["strength"], settings, key["seed"])


def main() -> None:
    """Run what is missing."""
    parser = study_parser(__doc__, ROWS, tuple(ARMS), SEEDS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the downloaded packages")
    arguments = parser.parse_args()
    drive(arguments, plan(), functools.partial(run, data=arguments.data))


if __name__ == "__main__":
    main()
