# SPDX-License-Identifier: Apache-2.0
"""The options of what is done with a model: the data it reads, how it is trained and where, and how it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import Options, option, pixels


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """The data set, and its splits."""

    TITLE: ClassVar[str] = "data"

    data: str = option(
        help="folder of the data set, its layout recognised. Detection: COCO json or Pascal VOC. Segmentation: Pascal "
        "VOC, Cityscapes, or images/SPLIT with labels/SPLIT. Classification: SPLIT/CLASS/IMAGE"
    )
    split: str = option("train", "split to train on")
    val_split: str | None = option("val", "split to evaluate on during training; 'none' never evaluates")


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions(Options):
    """The size that images are resized to inside the model, and how training images are varied before."""

    TITLE: ClassVar[str] = "image size and augmentation"

    min_size: tuple[int, ...] = pixels(
        (800,),
        "short side of the resized image in pixels; several: one at random in training, the last in evaluation",
        only=("resized",),
    )
    max_size: int = pixels(1333, "limit of the long side of the resized image, in pixels", only=("resized",))
    crop: int | None = pixels(
        None, "train on random square crops of so many pixels of the original image", only=("detection",)
    )
    flip: float = option(0.5, "chance of a horizontal flip, 0..1", minimum=0)
    vertical_flip: float = option(0.0, "chance of a vertical flip, 0..1", minimum=0)
    rotate: float = option(0.0, "turn by a random angle of at most so many degrees", minimum=0, only=("rotated",))
    rotate90: bool = option(False, "rotate by a random multiple of 90 degrees (aerial and microscope images)")
    photometric: bool = option(False, "vary brightness, contrast, saturation and hue at random")


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(Options):
    """Length of the run, batches, optimizer and learning rate."""

    TITLE: ClassVar[str] = "optimisation"

    epochs: int = option(12, "passes over the training split", minimum=1)
    steps: int | None = option(None, "stop after so many optimizer steps instead of --epochs", minimum=1)
    batch_size: int = option(2, "images that a process takes at once", minimum=1, maximum=4096)
    accumulate: int = option(
        1, "batches of each process for a step: it has batch_size x accumulate x processes images", minimum=1
    )
    step_images: int | None = option(
        None, "images of a step in all, whatever the number of processes: sets --accumulate", minimum=1
    )
    optimizer: Literal["sgd", "adamw"] = option("sgd", "sgd with momentum, or adamw")
    lr: float = option(0.0025, "peak learning rate; detectors have the usual 0.02 for 16 images, scaled to a step of 2")
    momentum: float = option(0.9, "momentum of sgd", minimum=0)
    weight_decay: float = option(1e-4, "weight decay", minimum=0)
    offset_lr_scale: float = option(
        0.1, "factor on the learning rate of the offset branches (v2 paper: 0.1)", minimum=0
    )
    roi_offset_lr_scale: float | None = option(
        None,
        "the same for the offset branches of RoI pooling; default the papers', 0.01 for v1's single layer, else 1",
        minimum=0,
        only=("detection",),
    )
    schedule: Literal["multistep", "onecycle"] = option(
        "multistep", "multistep (the papers') or onecycle learning rate"
    )
    warmup_steps: int = option(500, "steps of warm-up; at most a tenth of the run", minimum=0)
    warmup: Literal["linear", "constant"] = option(
        "linear", "multistep: rise linearly, or stay constant at --warmup-factor"
    )
    warmup_factor: float | None = option(
        None, "factor on the learning rate that warm-up begins with; default 1 / warmup_steps", minimum=0
    )
    milestones: tuple[float, ...] = option(
        (0.667, 0.917), "multistep: divide the learning rate by 10 at these shares of the run", minimum=0
    )
    grad_clip: float = option(35.0, "largest norm of the gradient; 0 does not clip", minimum=0)
    offset_grad_clip: float = option(
        0.0, "largest norm of the gradient of the offset branches alone; 0 does not clip", minimum=0
    )
    seed: int = option(0, "seed of weights, order of images and augmentation", minimum=0)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Device, precision, readers, and what is written when."""

    TITLE: ClassVar[str] = "machine and run folder"

    device: str = option("auto", "as PyTorch names it (cpu, cuda, cuda:1, mps); auto: an accelerator if there is one")
    precision: Literal["no", "bf16", "fp16"] = option("no", "mixed precision: no, bf16, fp16")
    channels_last: bool = option(
        False, "keep images and weights with channels last in memory (fast with fp16 and bf16)"
    )
    compile: bool = option(False, "compile the backbone with torch.compile; docs/training.md says when it pays")
    workers: int = option(0, "processes that read images; 0 reads in the training process", minimum=0, maximum=256)
    eval_every: int = option(1, "evaluate each so many epochs, and at the end", minimum=1)
    checkpoint_every: int = option(500, "save a checkpoint each so many steps, and after each evaluation", minimum=1)
    log_every: int = option(10, "write the losses to metrics.jsonl each so many steps", minimum=1)
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = option(
        "none", "also send losses and metrics to this experiment tracker, which must be installed"
    )


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(Options):
    """How predictions are made and counted; `pliant eval` and `pliant predict` take these options too."""

    TITLE: ClassVar[str] = "inference (docs/inference.md)"
    ONLY: ClassVar[tuple[str, ...]] = ("detection",)

    score_threshold: float | None = option(None, "least score of a detection, 0..1; default 0.05", minimum=0)
    nms_threshold: float | None = option(
        None,
        "overlap (IoU) above which the box with the lower score is dropped; default the model's, 0.5 or 0.3",
        minimum=0,
    )
    nms: Literal["hard", "linear", "gaussian"] = option(
        "hard", "overlapping boxes are dropped, or lose score: Soft-NMS, linear or gaussian"
    )
    soft_nms_sigma: float = option(0.5, "width of gaussian Soft-NMS", minimum=0.001)
    test_scales: tuple[int, ...] | None = pixels(
        None, "predict at several sizes and put the boxes together: short sides in pixels"
    )
    test_max_size: int | None = pixels(
        None, "limit of the long side at all of --test-scales; default in proportion to --max-size"
    )
    test_flip: bool = option(False, "predict on the mirror image too")
    tile: int | None = option(
        None,
        "predict on overlapping tiles of so many pixels a side, for photographs with small objects; a quarter is "
        "shared by neighbours",
        minimum=64,
    )
    box_averaging: int = option(
        0, "rounds of moving each box to the mean of the boxes around it (v1 paper, Table 5, B)", minimum=0
    )
    box_averaging_iou: float = option(0.5, "overlap from which a box is around another", minimum=0)
    counted_detections: int | None = option(
        None,
        "detections of an image and category that count in the metric; default 100 as in COCO, or --max-detections "
        "if that is higher",
        minimum=10,
        maximum=100000,
    )
