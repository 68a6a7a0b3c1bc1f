# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of animals, plain against deformable: `python -m benchmarks.accuracy.segmentation --data DIR`.

DeepLab on MobileNetV2, as in docs/deeplab.md, on a folder of scenes (`benchmarks.accuracy.scenes`), with five seeds.
The deformable arms have more parameters than plain; the control `still-c5` has as many as `mdconv-c5`, layer by layer,
and modulates as it does, but its offsets are held within a thousandth of a cell.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy.rows import RESULTS
from benchmarks.accuracy.scenes import Study, main
from benchmarks.accuracy.training import short_training
from pliant.train import TrainConfig


def config_of(data: Path, weights: Path | None) -> TrainConfig:
    """Return the settings that all runs share."""
    return short_training(
        data,
        weights,
        model="deeplab",
        min_size=(128,),
        max_size=128,
        batch_size=8,
        checkpoint_every=25,
    )


STUDY = Study(
    rows=RESULTS / "segmentation.jsonl",
    arms={
        "plain": {},
        "still-c5": {"deform": "c5", "offset_limit": 0.001},
        "mdconv-c5": {"deform": "c5"},
        "dconv-c5": {"deform": "c5", "modulated": False},
        "mdconv-c4-c5": {"deform": "c4-c5"},
    },
    controls={
        "still-c5": ("plain",),
        "mdconv-c5": ("plain", "still-c5"),
        "dconv-c5": ("plain", "mdconv-c5"),
        "mdconv-c4-c5": ("plain", "mdconv-c5"),
    },
    seeds=5,
    epochs=(8, 32),
    config_of=config_of,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
