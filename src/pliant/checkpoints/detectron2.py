# SPDX-License-Identifier: Apache-2.0
"""detectron2's Faster R-CNN and Mask R-CNN with a feature pyramid, with DeformBottleneckBlock or without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pliant.checkpoints.draft import Conversion, Draft
from pliant.checkpoints.heads import move_box_predictor, move_mask_predictor, pyramid_widths
from pliant.checkpoints.resnet import resnet_name, take_input, trunk_prefix, trunk_settings

PIXEL_MEAN = (103.53, 116.28, 123.675)  # blue first, as are
PIXEL_STD = {"resnet": (1.0, 1.0, 1.0), "resnext": (57.375, 57.12, 58.395)}
NORM = r"(weight|bias|running_mean|running_var)"


def convert_detectron2(state: Mapping[str, Tensor]) -> Conversion:
    """Convert a state dict of detectron2.

    Raises:
        PliantError: another system than the two, or another backbone than torchvision's or timm's ResNets.
    """
    draft = Draft("detectron2", state)
    draft.leave_counters()
    draft.leave(r"proposal_generator\.anchor_generator\..*", "anchors, which pliant computes")
    settings = _move_trunk(draft)
    for level in range(4):
        for kind, block in (("lateral", "inner_blocks"), ("output", "layer_blocks")):
            pattern = rf"backbone\.fpn_{kind}{level + 2}\.(weight|bias)"
            draft.rename(pattern, rf"backbone.fpn.{block}.{level}.0.\1")
    head = r"proposal_generator\.rpn_head"
    draft.rename(rf"{head}\.conv(?:\.conv0)?\.(weight|bias)", r"rpn.head.conv.0.0.\1")
    draft.rename(rf"{head}\.objectness_logits\.(weight|bias)", r"rpn.head.cls_logits.\1")
    draft.rename(rf"{head}\.anchor_deltas\.(weight|bias)", r"rpn.head.bbox_pred.\1")
    draft.rename(r"roi_heads\.box_head\.fc1\.(weight|bias)", r"roi_heads.box_head.fc6.\1")
    draft.rename(r"roi_heads\.box_head\.fc2\.(weight|bias)", r"roi_heads.box_head.fc7.\1")
    predictor = "roi_heads.box_predictor"
    labels = move_box_predictor(draft, f"{predictor}.cls_score", f"{predictor}.bbox_pred")
    if "roi_heads.mask_head.predictor.weight" in draft.state:
        settings["model"] = "mask-rcnn"
        for k in range(4):
            draft.rename(rf"roi_heads\.mask_head\.mask_fcn{k + 1}\.(weight|bias)", rf"roi_heads.mask_head.{k}.0.\1")
        move_mask_predictor(draft, "roi_heads.mask_head.deconv", "roi_heads.mask_head.predictor", labels)
    draft.notes.append("detectron2 does not round its anchors and torchvision does: they differ by up to half a pixel")
    draft.notes.append("detectron2's RoIAlign samples half a cell further up and left (aligned=True)")
    return draft.finish(settings | pyramid_widths(draft.tensors), labels)


def _move_trunk(draft: Draft) -> dict[str, Any]:
    bottom = r"backbone\.bottom_up"
    convolutions = re.compile(rf"{bottom}\.res(\d)\.(\d+\.conv\d\.weight)")
    found = [match for match in map(convolutions.fullmatch, draft.state) if match]
    backbone = resnet_name({f"layer{int(m[1]) - 1}.{m[2]}": draft.state[m[0]] for m in found}, "")
    own = trunk_prefix(backbone)
    draft.rename(rf"{bottom}\.stem\.conv1\.weight", f"{own}conv1.weight")
    draft.rename(rf"{bottom}\.stem\.conv1\.norm\.{NORM}", rf"{own}bn1.\1")
    for stage in range(2, 6):
        block, target = rf"{bottom}\.res{stage}\.(\d+)", rf"{own}layer{stage - 1}.\1"
        draft.rename(rf"{block}\.shortcut\.weight", rf"{target}.downsample.0.weight")
        draft.rename(rf"{block}\.shortcut\.norm\.{NORM}", rf"{target}.downsample.1.\2")
        draft.rename(rf"{block}\.conv(\d)\.weight", rf"{target}.conv\2.weight")
        draft.rename(rf"{block}\.conv(\d)\.norm\.{NORM}", rf"{target}.bn\2.\3")
        draft.rename(rf"{block}\.conv2_offset\.(weight|bias)", rf"{target}.conv2.conv_offset.\2")
    resnext = "resnext" in backbone
    mean, std = _pixels(draft, "resnext" if resnext else "resnet")
    take_input(draft, own, mean[::-1], std[::-1], bgr=True)
    # detectron2's ResNets are the original ones (STRIDE_IN_1X1), its ResNeXts are not.
    network = backbone if resnext else f"{backbone}-caffe"
    return {"model": "faster-rcnn", **trunk_settings(network, draft.tensors, own)}


def _pixels(draft: Draft, kind: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of the input's channels, from the file where it holds them."""
    values = []
    for name, default in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD[kind])):
        given = draft.state.get(name)
        values.append([float(v) for v in given.flatten()] if given is not None else list(default))
        draft.leave(name, "rewritten into the first convolution")
    draft.notes.append(
        f"input in BGR with PIXEL_STD {values[1]}, and strides in the {'3x3' if kind == 'resnext' else '1x1'} "
        f"convolutions, as detectron2's pretrained {'ResNeXt' if kind == 'resnext' else 'ResNet'}s have them; "
        "the file does not say"
    )
    return values[0], values[1]
