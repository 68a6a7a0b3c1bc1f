# SPDX-License-Identifier: Apache-2.0
"""The official MXNet code's R-FCN, Faster R-CNN and DeepLab, with deformable layers or without."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pliant._check import fail
from pliant.checkpoints.draft import Change, Conversion, Draft
from pliant.checkpoints.resnet import resnet_name, take_input, trunk_settings
from pliant.detection import AnchorOptions
from pliant.detection.proposals import map_anchors

PIXEL_MEAN = (123.15, 115.9, 103.06)  # red first; the code subtracts them from RGB images of 0..255
BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
BRANCHES = {"1": "downsample", "2a": "1", "2b": "2", "2c": "3"}

# Scales of the anchors by their number a cell (COCO's and VOC's experiments), in units of BASE_SIZE pixels.
SCALES = {12: (4, 8, 16, 32), 9: (8, 16, 32)}
RATIOS = (0.5, 1.0, 2.0)
BASE_SIZE = 16
BINS = 49
TIMES_DEVIATIONS = "the boxes' weights once more, times the deviations that pliant's box coder multiplies by"


def convert_mxnet(state: Mapping[str, Tensor]) -> Conversion:
    """Convert the arrays of a `.params` file of the official code.

    Raises:
        PliantError: another system than the three, or another backbone than ResNet-50 or ResNet-101.
    """
    names = {re.sub(r"^(arg|aux):", "", name): name for name in state}
    conversion = _convert(Draft("mxnet", {name: state[full] for name, full in names.items()}))
    entries = tuple(dataclasses.replace(entry, source=names[entry.source or ""]) for entry in conversion.entries)
    left = {names[name]: why for name, why in conversion.left.items()}
    return dataclasses.replace(conversion, entries=entries, left=left)


def _convert(draft: Draft) -> Conversion:
    if "fpn_p6_weight" in draft.state:
        rule = "must be of an R-FCN, a Faster R-CNN on one map, or a DeepLab"
        got = "a feature pyramid whose coarsest map comes from a convolution, where pliant's comes from a max pooling"
        fail("checkpoint", rule, got, "train one with --recipe official-fpn-coco-deform")
    segmenter = "score_weight" in draft.state
    settings = _move_trunk(draft, "backbone." if segmenter else "backbone.body.")
    if segmenter:
        return _deeplab(draft, settings)
    if "rfcn_cls_weight" in draft.state:
        return _rfcn(draft, settings)
    draft.require("fc_new_1_weight")
    return _faster_rcnn(draft, settings)


def _deeplab(draft: Draft, settings: dict[str, Any]) -> Conversion:
    draft.rename(r"(fc6|score)_(weight|bias)", r"\1.\2")
    draft.leave("upsampling_weight", "bilinear interpolation, which pliant computes")
    labels = len(draft.tensors["score.bias"])
    size = {"min_size": (1024,), "max_size": 2048} if labels == 19 else {"min_size": (360,), "max_size": 600}
    return draft.finish({"model": "deeplab", **settings, **size}, labels, background=True)


def _rfcn(draft: Draft, settings: dict[str, Any]) -> Conversion:
    settings |= {"model": "rfcn", **_move_proposals(draft)}
    pool = r"roi_heads.box_roi_pool"
    labels = len(draft.require("rfcn_cls_bias")) // BINS - 1
    agnostic = len(draft.require("rfcn_bbox_bias")) == 2 * 4 * BINS
    draft.rename(r"rfcn_cls_(weight|bias)", rf"{pool}.scores.\1")
    draft.rename(r"rfcn_bbox_(weight|bias)", rf"{pool}.boxes.\1")
    deform = draft.rename(r"rfcn_cls_offset_t_(weight|bias)", rf"{pool}.score_pool.conv_offset.\1")
    draft.rename(r"rfcn_bbox_offset_t_(weight|bias)", rf"{pool}.box_pool.conv_offset.\1")
    draft.leave(r"rfcn_bbox_(weight|bias)_test", TIMES_DEVIATIONS)
    if not deform:
        draft.notes.append(
            "the official R-FCN without offsets takes the mean of whole cells, pliant samples bilinearly"
        )
    return draft.finish({**settings, "roi_pool": "deform" if deform else "align", "class_agnostic": agnostic}, labels)


def _faster_rcnn(draft: Draft, settings: dict[str, Any]) -> Conversion:
    settings |= {"model": "faster-rcnn-dc5", "min_size": (600,), "max_size": 1000, **_move_proposals(draft)}
    heads = "roi_heads"
    labels = len(draft.require("cls_score_bias")) - 1
    agnostic = len(draft.require("bbox_pred_bias")) == 2 * 4
    draft.rename(r"fc_new_1_(weight|bias)", rf"{heads}.box_head.fc6.\1")
    draft.rename(r"fc_new_2_(weight|bias)", rf"{heads}.box_head.fc7.\1")
    draft.rename(r"(cls_score|bbox_pred)_(weight|bias)", rf"{heads}.box_predictor.\1.\2")
    deform = draft.rename(r"offset_(weight|bias)", rf"{heads}.box_roi_pool.pool.offset_fc.0.\1")
    draft.leave(r"bbox_pred_(weight|bias)_test", TIMES_DEVIATIONS)
    draft.notes.append(
        "the official pooling rounds regions and samples bins from their corner, pliant's Faster R-CNN their middle"
        if deform
        else "the official Faster R-CNN without offsets pools by the maximum of cells, pliant by the mean of samples"
    )
    return draft.finish({**settings, "roi_pool": "deform" if deform else "align", "class_agnostic": agnostic}, labels)


def _move_trunk(draft: Draft, own: str) -> dict[str, Any]:
    """Take the backbone's arrays to names that begin with `own`."""
    layers = re.compile(r"(res|bn)(\d)([a-z])(\d*)_branch(1|2[abc])(_offset)?_([a-z_]+)")
    found = [match for match in map(layers.fullmatch, draft.state) if match]
    own_names = {match[0]: _torchvision_name(match) for match in found}
    backbone = resnet_name({own: draft.state[name] for name, own in own_names.items()}, "")
    draft.rename("conv1_weight", f"{own}conv1.weight")
    for kind, target in BATCH_NORM.items():
        draft.rename(f"bn_conv1_{kind}", f"{own}bn1.{target}")
    for name, target in own_names.items():
        draft.move(name, own + target)
    take_input(draft, own, PIXEL_MEAN, bgr=False)
    draft.notes.append(
        "the operator of the first MXNet code reads zeros right above the first row and left of the first column, and "
        "repeats the last ones for one more cell; pliant fades to zero on all sides, as the papers' equation does"
    )
    return trunk_settings(f"{backbone}-mxnet", draft.tensors, own)


def _torchvision_name(match: re.Match[str]) -> str:
    """`res4b9_branch2b_offset_bias` is `layer3.9.conv2.conv_offset.bias`, `bn5c_branch2a_beta` `layer4.2.bn1.bias`."""
    kind, stage, letter, number, branch, offset, tensor = match.groups()
    block = int(number) if number else ord(letter) - ord("a")
    part = BRANCHES[branch]
    if part == "downsample":
        layer = "downsample.0" if kind == "res" else "downsample.1"
    else:
        layer = ("conv" if kind == "res" else "bn") + part
    layer += ".conv_offset" if offset else ""
    return f"layer{int(stage) - 1}.{block}.{layer}.{BATCH_NORM.get(tensor, tensor)}"


def _move_proposals(draft: Draft) -> dict[str, Any]:
    """Take the 1x1 convolution on conv5 and the proposal network, rewritten for torchvision's anchors."""
    anchors = len(draft.require("rpn_bbox_pred_bias")) // 4
    if anchors not in SCALES:
        rule = f"must have {' or '.join(map(str, SCALES))} anchors a cell, as the official experiments"
        fail("checkpoint", rule, anchors, "give another checkpoint")
    sizes = tuple(float(BASE_SIZE * scale) for scale in SCALES[anchors])
    head = "rpn.head"
    channels = len(draft.require("conv_new_1_bias"))
    draft.rename(r"conv_new_1_(weight|bias)", r"backbone.reduction.\1")
    hidden = len(draft.require("rpn_conv_3x3_bias"))
    draft.rename(r"rpn_conv_3x3_(weight|bias)", rf"{head}.conv.0.0.\1")
    how = "the score of an object less that of none"
    draft.rename(r"rpn_cls_score_(weight|bias)", rf"{head}.cls_logits.\1", how, lambda w: w[anchors:] - w[:anchors])
    scale, shift = _between_anchors(sizes)
    how = "rewritten for anchors with their centre in the cell's corner"
    draft.rename("rpn_bbox_pred_weight", f"{head}.bbox_pred.weight", how, _scaled(scale, None))
    draft.rename("rpn_bbox_pred_bias", f"{head}.bbox_pred.bias", how, _scaled(scale, shift))
    return {"anchor_sizes": sizes, "reduction_channels": channels, "rpn_channels": hidden}


def _scaled(scale: Tensor, shift: Tensor | None) -> Change:
    def change(rows: Tensor) -> Tensor:
        result = rows * scale.to(rows.device).view(-1, *[1] * (rows.ndim - 1))
        return result if shift is None else result + shift.to(rows.device)

    return change


def _between_anchors(sizes: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    r"""Return scale and shift (4 A,) that turn the official anchors' deltas into those of torchvision's anchors.

    A box of centre c and size w is c' = c + d w, w' = w exp(e) for an anchor's deltas d, e. For another anchor
    (c_2, w_2) the same box has :math:`d_2 = d \, w / w_2 + (c - c_2) / w_2` and :math:`e_2 = e + \log(w / w_2)`.
    """
    theirs = _official_anchors(sizes)  # (A, 4): centre and size, x before y
    corners = map_anchors(AnchorOptions(sizes, ratios=RATIOS)).cell_anchors[0].double()
    ours = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    ratio = theirs[:, 2:] / ours[:, 2:]
    scale = torch.cat([ratio, torch.ones_like(ratio)], dim=1)
    shift = torch.cat([(theirs[:, :2] - ours[:, :2]) / ours[:, 2:], ratio.log()], dim=1)
    return scale.flatten().float(), shift.flatten().float()


def _official_anchors(sizes: tuple[float, ...]) -> Tensor:
    """The official code's anchors, ratio by ratio; its boxes hold their last pixel, so they end one later here."""
    boxes = []
    for ratio in RATIOS:
        width = round(math.sqrt(BASE_SIZE**2 / ratio))
        height = round(width * ratio)
        boxes += [[BASE_SIZE / 2, BASE_SIZE / 2, width * s / BASE_SIZE, height * s / BASE_SIZE] for s in sizes]
    return torch.tensor(boxes, dtype=torch.float64, device="cpu")
