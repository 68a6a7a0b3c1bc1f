# SPDX-License-Identifier: Apache-2.0
"""The options of what a model is made of: its backbone, and the parts of detectors, segmenters and classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pliant.train.options.fields import Options, channels, option, pixels, regions


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(Options):
    """The trunk, what is deformable in it, and what of it is trained."""

    TITLE: ClassVar[str] = "backbone and deformable convolutions"

    backbone: str = option(
        "resnet50",
        "resnet18/34/50/101, resnext50/101, mobilenet_v2/v3, aligned-inception-resnet, or timm:NAME; resnet50-caffe, "
        "resnet101-caffe for weights with strides in the 1x1 convolutions",
    )
    deform: str | None = option(None, "convolutions made deformable: c3-c5, c5, last3, or a regular expression")
    dilation: int | None = option(
        None,
        "dilation of conv5's convolutions larger than 1x1 at stride 16; default 2 (v1 paper, Table 3: 4, 6, 8)",
        minimum=1,
        maximum=64,
        only=("dilated",),
    )
    modulated: bool = option(True, "DCNv2's modulation; without it the layers are DCNv1's")
    offset_groups: int = option(1, "groups of channels with offsets of their own", minimum=1)
    mask_scale: float = option(2.0, "factor of the modulation's sigmoid; 2 starts as the plain network does")
    offset_limit: float | None = option(
        None, "keep offsets of convolutions within so many cells of their input, by a tanh", minimum=0.001
    )
    weights: str | None = option(None, "checkpoint of the backbone, or 'default' to download the library's own")
    norm: Literal["auto", "frozen", "batch"] = option(
        "auto", "batch norm: frozen, batch, or auto (frozen with --weights)"
    )
    frozen_stages: int | None = option(None, "first stages not trained; default 2 with --weights, else 0", minimum=0)


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(Options):
    """Pyramid, anchors, proposals and heads."""

    TITLE: ClassVar[str] = "detector"
    ONLY: ClassVar[tuple[str, ...]] = ("detection",)

    strides: tuple[int, ...] = option(
        (4, 8, 16, 32), "strides of the pyramid's maps, in pixels", minimum=1, only=("pyramid",)
    )
    fpn_channels: int = channels(256, "channels of the pyramid's maps", only=("pyramid",))
    head_channels: int = channels(1024, "width of the box head's two layers", only=("fc head",))
    roi_pool: Literal["align", "deform", "modulated", "max"] = option(
        "align",
        "how regions are pooled: align (RoIAlign), deform (v1), modulated (v2); max for faster-rcnn-dc5 and "
        "mask-rcnn-dc5 alone; in rfcn position-sensitive, and not modulated",
        only=("regions",),
    )
    roi_branch: Literal["paper", "mmcv"] = option(
        "paper",
        "layers that deformable RoI pooling computes its offsets with: the papers' (v1: one; v2: three) or mmcv's (v1: "
        "three; v2: three, and two for the weights)",
        only=("pyramid",),
    )
    roi_shared: bool = option(
        True,
        "one such branch for all maps of the pyramid; without it one for each, as in mmdetection",
        only=("pyramid",),
    )
    mask_channels: int = channels(256, "width of the mask head", only=("masks",))
    roi_samples_per_bin: int = option(
        2,
        "samples along each axis of a region's bin (v2 paper: 2, official v1 code: 4)",
        minimum=1,
        maximum=64,
        only=("regions",),
    )
    roi_samples: int = regions(512, "regions per image that the box head is trained on", only=("regions",))
    ohem: int | None = regions(
        None,
        "train the box head on so many regions of an image with the highest loss, of all proposals",
        only=("mined",),
    )
    anchor_sizes: tuple[float, ...] | None = option(
        None,
        "anchor side in pixels for each map of a pyramid and one more, by default 8 times the stride; without a "
        "pyramid all sides on its one map",
        minimum=1,
    )
    anchor_scales: tuple[float, ...] = option((1.0,), "factors; each map has an anchor of each", minimum=0.01)
    anchor_ratios: tuple[float, ...] = option((0.5, 1.0, 2.0), "heights over widths of the anchors", minimum=0.01)
    proposals: int = regions(1000, "regions per image that the box head looks at in evaluation", only=("regions",))
    max_detections: int = option(100, "most detections per image", minimum=1, maximum=10000)


@dataclass(frozen=True, kw_only=True)
class SingleMapOptions(Options):
    """The 1x1 convolution on conv5, and what the official code has in its heads."""

    TITLE: ClassVar[str] = "detectors of the papers' form (conv5 at stride 16, no pyramid)"
    ONLY: ClassVar[tuple[str, ...]] = ("single map",)

    reduction_channels: int = channels(
        256, "channels of the 1x1 convolution on conv5; default 1024 but for faster-rcnn-dc5"
    )
    reduction_lr_scale: float = option(
        1.0, "factor on the learning rate of that convolution; default 3 for rfcn, as the official code has", minimum=0
    )
    rpn_channels: int = channels(512, "channels of the proposal network's 3x3 convolution")
    train_proposals: int = regions(2000, "regions per image handed to the second stage in training", only=("regions",))
    class_agnostic: bool = option(False, "one box for all classes (official R-FCN)", only=("regions",))
    background_iou: float = option(
        0.0,
        "least overlap with a box of regions trained on as background (official v1 Faster R-CNN: 0.1)",
        minimum=0,
        only=("regions",),
    )


@dataclass(frozen=True, kw_only=True)
class MimickingOptions(Options):
    """The branch on crops, and what of it the paper leaves open; see `pliant.detection.MimicOptions`."""

    TITLE: ClassVar[str] = "R-CNN feature mimicking (DCNv2)"
    ONLY: ClassVar[tuple[str, ...]] = ("fc head",)

    mimic: bool = option(False, "train with the branch; predictions are made without it")
    mimic_weight: float = option(0.1, "factor of the mimicking loss", minimum=0)
    mimic_classifier_weight: float = option(0.1, "factor of the branch's classification loss", minimum=0)
    mimic_boxes: Literal["foreground", "background", "all"] = option(
        "foreground", "which sampled proposals are cropped"
    )
    mimic_boxes_per_image: int = option(32, "most crops of an image", minimum=1, maximum=4096)
    mimic_crop_size: int = pixels(224, "side of a crop in pixels; a multiple of 32", minimum=64)
    mimic_iou: float = option(0.5, "overlap with a box from which a proposal is foreground", minimum=0.01)
    mimic_ground_truth: bool = option(True, "draw from the ground-truth boxes too, which are among the proposals")
    mimic_too_few: Literal["fewer", "repeat"] = option(
        "fewer", "with fewer boxes than that: fewer crops, or some repeated"
    )
    mimic_interpolation: Literal["bilinear", "area"] = option(
        "bilinear", "one sample for each pixel of a crop, or the mean over its area"
    )
    mimic_stop_gradient: bool = option(False, "the mimicking loss changes the detector's features alone")
    mimic_feature: Literal["after_relu", "before_relu"] = option("after_relu", "the second fc layer's output")
    mimic_reduction: Literal["image", "sum", "mean"] = option(
        "image", "sum over an image's boxes; sum over the batch; mean over boxes"
    )
    mimic_chunk: int | None = option(
        None, "crops in one pass of the backbone, computed again going backward, to save memory", minimum=1
    )


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions(Options):
    """DeepLab's own parts, and how its training images are cut."""

    TITLE: ClassVar[str] = "semantic segmentation"
    ONLY: ClassVar[tuple[str, ...]] = ("segmentation",)

    output_stride: int = option(
        16, "pixels of the resized image for each cell of the scores: 16 (the paper) or 8", minimum=8
    )
    offset_dilation: Literal["official", "paper"] = option(
        "official",
        "dilation of the offset branches in dilated layers: official (1, as in the published code) or paper (the same)",
    )
    bias_lr_scale: float = option(
        1.0,
        "factor on the learning rate of the biases of fc6, score and the offset branches; 2 in the official code",
        minimum=0,
    )
    window: tuple[int, ...] | None = pixels(
        None,
        "train on random windows of this height and width in pixels, e.g. 768 1024; images then keep their own size, "
        "in evaluation too, and --min-size and --max-size are not read",
        minimum=16,
    )
    scale_range: tuple[float, ...] | None = option(
        None, "resize training images by a random factor from ... to ..., e.g. 0.5 2", minimum=0.01
    )


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(Options):
    """Sizes of images, and what is done to labels."""

    TITLE: ClassVar[str] = "classification"
    ONLY: ClassVar[tuple[str, ...]] = ("classification",)

    resize_size: int = pixels(256, "short side in pixels that images are resized to in evaluation", minimum=1)
    crop_size: int = pixels(
        224, "side in pixels of the square that training images become and that is cut out in evaluation", minimum=1
    )
    crop_area: tuple[float, ...] = option(
        (0.08, 1.0), "share of the image's area that a training crop has, from ... to ...", minimum=0
    )
    label_smoothing: float = option(0.0, "share of a label's weight spread over all classes, 0..1", minimum=0)
