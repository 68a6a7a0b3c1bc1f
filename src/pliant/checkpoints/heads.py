# SPDX-License-Identifier: Apache-2.0
"""Classifiers, boxes and masks by class: other libraries' order of classes to torchvision's, the background first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pliant._check import counted, fail
from pliant.checkpoints.draft import Change, Draft

LAST_FIRST = "background moved from the last row to the first"
ADDED = "rows added for the background, which are not read"
REPEATED = "one box for all classes repeated for each"


def add_background(rows_of_a_class: int) -> Change:
    """Return the function that puts rows of zeros for the background before (C * rows_of_a_class, ...)."""

    def change(rows: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(rows[:1]).expand(rows_of_a_class, *rows.shape[1:]), rows])

    return change


def repeat_for(classes: int) -> Change:
    """Return the function that repeats what is for all classes `classes` times."""
    return lambda rows: rows.repeat(classes, *[1] * (rows.ndim - 1))


def move_box_predictor(draft: Draft, scores: str, boxes: str) -> int:
    """Take the classifier `scores` and the boxes `boxes` to torchvision's box predictor; return the number of classes.

    The background is the last class where boxes have no rows for it, and the first where they have.
    """
    total = len(draft.require(f"{scores}.bias"))
    rows = len(draft.require(f"{boxes}.bias"))
    target = r"roi_heads.box_predictor"
    if rows == 4 * total:
        draft.rename(rf"{scores}\.(weight|bias)", rf"{target}.cls_score.\1")
        draft.rename(rf"{boxes}\.(weight|bias)", rf"{target}.bbox_pred.\1")
        return total - 1
    if rows not in (4, 4 * (total - 1)):
        classes = counted(total, "class")
        rule = f"must have 4 numbers of a box for each of {classes}, or for all but the background, or for all together"
        fail("checkpoint", rule, f"{boxes} with {rows}", "give another checkpoint")
    draft.rename(rf"{scores}\.(weight|bias)", rf"{target}.cls_score.\1", LAST_FIRST, lambda w: w.roll(1, 0))
    how, change = (REPEATED, repeat_for(total)) if rows == 4 else (ADDED, add_background(4))
    draft.rename(rf"{boxes}\.(weight|bias)", rf"{target}.bbox_pred.\1", how, change)
    return total - 1


def move_mask_predictor(draft: Draft, upsample: str, logits: str, classes: int) -> None:
    """Take the last two layers of a mask head without background to torchvision's mask predictor."""
    draft.rename(rf"{upsample}\.(weight|bias)", r"roi_heads.mask_predictor.conv5_mask.\1")
    rows = len(draft.require(f"{logits}.bias"))
    if rows not in (1, classes):
        rule = f"must have a mask for each of {counted(classes, 'class')}, or one for all"
        fail("checkpoint", rule, f"{logits} with {rows}", "give another checkpoint")
    how, change = (ADDED, add_background(1)) if rows == classes else (REPEATED, repeat_for(classes + 1))
    draft.rename(rf"{logits}\.(weight|bias)", r"roi_heads.mask_predictor.mask_fcn_logits.\1", how, change)


def pyramid_widths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the options of the widths of pyramid and box head, from tensors in pliant's names."""
    names = {"fpn_channels": "backbone.fpn.inner_blocks.0.0.bias", "head_channels": "roi_heads.box_head.fc6.bias"}
    return {option: len(tensors[name]) for option, name in names.items() if name in tensors}
