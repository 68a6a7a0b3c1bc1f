# SPDX-License-Identifier: Apache-2.0
"""Instance segmentation of animals, plain against deformable: `python -m benchmarks.accuracy.instances --data DIR`.

Mask R-CNN over a feature pyramid on MobileNetV2, on a folder of scenes (`benchmarks.accuracy.scenes`). The arms have
deformable layers in conv5 or in the pyramid, modulated RoI pooling of boxes and masks, or R-CNN feature mimicking; the
control `still-c5` has the layers of `mdconv-c5` and its parameters, but its offsets are held within a thousandth of a
cell. Mimicking is tried on layers in the pyramid, with crops as large as the animals and twice as large.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy.rows import RESULTS
from benchmarks.accuracy.scenes import Study, main
from benchmarks.accuracy.training import short_training
from pliant.train import TrainConfig

PYRAMID = r"fpn\.layer_blocks"
SCRATCH = {"backbone": "resnet18", "weights": None}


def config_of(data: Path, weights: Path | None) -> TrainConfig:
    """Return the settings that all runs share."""
    return short_training(
        data,
        weights,
        model="mask-rcnn",
        norm="batch",
        frozen_stages=0,
        strides=(8, 16, 32),
        fpn_channels=64,
        head_channels=128,
        mask_channels=32,
        roi_samples=64,
        proposals=100,
        anchor_sizes=(16.0, 32.0, 64.0, 128.0),
        min_size=(128,),
        max_size=128,
        batch_size=4,
        weight_decay=1e-2,
        grad_clip=10.0,
        checkpoint_every=50,
    )


STUDY = Study(
    rows=RESULTS / "instances.jsonl",
    arms={
        "plain": {},
        "still-c5": {"deform": "c5", "offset_limit": 0.001},
        "mdconv-c5": {"deform": "c5"},
        "mdconv-c5-rate-0.03": {"deform": "c5", "offset_lr_scale": 0.03},
        "pyramid-mdconv": {"deform": PYRAMID},
        "pyramid-mdconv-rate-0.1": {"deform": PYRAMID, "offset_lr_scale": 0.1},
        "pyramid-mdconv-rate-0.03": {"deform": PYRAMID, "offset_lr_scale": 0.03},
        # The branch of the pooling at a tenth of the rate, as in `benchmarks.accuracy.detection`.
        "pyramid-mdconv+mdpool-0.1": {"deform": PYRAMID, "roi_pool": "modulated", "roi_offset_lr_scale": 0.1},
        "pyramid-mdconv+mimic-64": {
            "deform": PYRAMID, "mimic": True, "mimic_crop_size": 64, "mimic_boxes_per_image": 8,
        },
        "pyramid-mdconv+mimic-128": {
            "deform": PYRAMID, "mimic": True, "mimic_crop_size": 128, "mimic_boxes_per_image": 4,
        },
        # A tenth of its weight.
        "pyramid-mdconv+mimic-64-light": {
            "deform": PYRAMID, "mimic": True, "mimic_crop_size": 64, "mimic_boxes_per_image": 8, "mimic_weight": 0.01,
            "mimic_classifier_weight": 0.01,
        },
        # The papers' own place: the dense 3x3 convolutions of a ResNet, here a small one without ImageNet.
        "resnet18": {**SCRATCH},
        "resnet18-still-c3-c5": {**SCRATCH, "deform": "c3-c5", "offset_limit": 0.001},
        "resnet18-mdconv-c3-c5": {**SCRATCH, "deform": "c3-c5"},
    },
    controls={
        "still-c5": ("plain",),
        "mdconv-c5": ("plain", "still-c5"),
        "mdconv-c5-rate-0.03": ("plain", "mdconv-c5"),
        "pyramid-mdconv": ("plain",),
        "pyramid-mdconv-rate-0.1": ("plain", "pyramid-mdconv"),
        "pyramid-mdconv-rate-0.03": ("plain", "pyramid-mdconv"),
        "pyramid-mdconv+mdpool-0.1": ("plain", "pyramid-mdconv"),
        "pyramid-mdconv+mimic-64": ("plain", "pyramid-mdconv"),
        "pyramid-mdconv+mimic-128": ("plain", "pyramid-mdconv"),
        "pyramid-mdconv+mimic-64-light": ("plain", "pyramid-mdconv"),
        "resnet18-still-c3-c5": ("resnet18",),
        "resnet18-mdconv-c3-c5": ("resnet18", "resnet18-still-c3-c5"),
    },
    seeds=3,
    epochs=(8,),
    config_of=config_of,
)  # fmt: skip

if __name__ == "__main__":
    main(STUDY, __doc__)
