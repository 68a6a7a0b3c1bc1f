# SPDX-License-Identifier: Apache-2.0
"""Boxes as the RoI operators take them: (R, 5) rows of (image, x1, y1, x2, y2), or a list of (L, 4), one an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C import _functorch as functorch

from pliant._check import counted, fail, shown
from pliant.ops._checks import check_tensor, compute_dtype, is_wrapped, shape_text

Boxes = Tensor | Sequence[Tensor]


def as_rois(boxes: object, input: Tensor) -> Tensor:
    """Check `boxes` and return them as (R, 5) in the type of coordinates, which never is a half type."""
    dtype = compute_dtype(input)
    if isinstance(boxes, Tensor):
        check_tensor("boxes", boxes, input)
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            fix = "put the image's number before each box, or pass a list with the (L, 4) boxes of each image"
            rule = "must be (R, 5) rows of (image, x1, y1, x2, y2)"
            fail("boxes", rule, f"the shape {shape_text(boxes.shape)}", fix)
        return boxes.to(dtype)
    if not isinstance(boxes, (list, tuple)):
        fix = "pass a (R, 5) tensor or a list of (L, 4) tensors"
        fail("boxes", "must be a tensor or a list of tensors", shown(boxes), fix, kind=TypeError)
    if len(boxes) > input.shape[0]:
        rule = f"must hold at most one tensor for each of the {counted(input.shape[0], 'image')} of input"
        fail("boxes", rule, f"a list of {len(boxes)}", "put the boxes of an image into one (L, 4) tensor")
    for i, of_image in enumerate(boxes):
        check_tensor(f"boxes[{i}]", of_image, input)
        if of_image.dim() != 2 or of_image.shape[1] != 4:
            rule = "must be (L, 4) rows of (x1, y1, x2, y2)"
            got = f"the shape {shape_text(of_image.shape)}"
            fail(f"boxes[{i}]", rule, got, "pass one row of four numbers for each box")
    return joined([b.to(dtype) for b in boxes]) if boxes else torch.zeros(0, 5, dtype=dtype, device=input.device)


def joined(boxes: Sequence[Tensor]) -> Tensor:
    """Return the (L, 4) boxes of one or more images as (R, 5), with the image's number in front of the corners."""
    return torch.cat([torch.cat([torch.full_like(b[:, :1], i), b], 1) for i, b in enumerate(boxes)])


def check_image_index(rois: Tensor, images: int) -> None:
    """Raise unless column 0 of `rois` names images, where this can be seen without waiting for another device."""
    if torch.compiler.is_compiling() or rois.device.type != "cpu" or is_wrapped(rois, functorch.is_batchedtensor):
        return
    exists = image_index(rois, images)[1]
    if not bool(exists.all()):
        row = int((~exists).nonzero()[0])
        rule = f"column 0 must be the number of an image of input, from 0 to {images - 1}"
        got = f"{rois[row, 0].item():g} in row {row}"
        fail("boxes", rule, got, "write rows as (image, x1, y1, x2, y2)")


def image_index(rois: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Return which image each box reads, (R,), and whether there is such an image; a box without one reads zeros.

    The number is floor(x + 1/2), so that one which is almost whole, as a finite difference makes it, is taken for that.
    """
    index = (rois[:, 0].detach() + 0.5).floor()
    exists = (index >= 0) & (index < images)  # false for NaN
    return torch.where(exists, index, index.new_zeros(())).long(), exists
