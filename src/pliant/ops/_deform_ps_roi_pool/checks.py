# SPDX-License-Identifier: Apache-2.0
"""What the arguments of deformable position-sensitive RoI pooling must be, apart from the boxes."""

from __future__ import annotations

from torch import Tensor

from pliant._check import counted, fail
from pliant.ops._checks import check_dim, check_maps_of_boxes, check_tensor
from pliant.ops._deform_ps_roi_pool.reference import PSPooling


def check_arguments(input: Tensor, boxes: int, offset: Tensor | None, mask: Tensor | None, pooling: PSPooling) -> None:
    """Raise unless types, devices, dimensions and shapes fit one another and the number of `boxes`."""
    G, O = pooling.group_size, pooling.output_channels
    if input.shape[1] != O * G * G:
        rule = f"must have output_channels * group_size**2 channels, which is {O * G * G}"
        fail(
            "input",
            rule,
            counted(input.shape[1], "channel"),
            "change output_channels, group_size or the layer before",
        )
    for name, tensor, of_class in (("offset", offset, 2), ("mask", mask, 1)):
        if tensor is not None:
            _check_maps(name, tensor, of_class, input, boxes, pooling)
    if offset is not None and mask is not None and offset.shape[1] != 2 * mask.shape[1]:
        rule = f"must have as many classes as offset, which has {offset.shape[1] // 2}"
        fail("mask", rule, counted(mask.shape[1], "class"), "predict one mask for each pair of offsets")


def _check_maps(name: str, tensor: Tensor, of_class: int, input: Tensor, boxes: int, pooling: PSPooling) -> None:
    """Check maps that hold `of_class` channels for each class."""
    check_tensor(name, tensor, input)
    check_dim(name, tensor, (4,), f"(R, {of_class}*classes, part_h, part_w)")
    channels = tensor.shape[1]
    if channels < of_class or channels % of_class or pooling.output_channels % (channels // of_class):
        classes = f"a number of classes that divides output_channels={pooling.output_channels}"
        rule = f"must have {counted(of_class, 'channel')} for each class, and {classes}"
        fail(name, rule, counted(channels, "channel"), f"use {of_class} for one class")
    check_maps_of_boxes(name, tensor, (boxes, channels, *pooling.part_size), f"part_size {pooling.part_size}")
