# SPDX-License-Identifier: Apache-2.0
"""mmdetection's Faster R-CNN and Mask R-CNN with a feature pyramid, 1.x to 3.x: configs/dcn and configs/dcnv2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pliant._check import fail
from pliant.checkpoints.draft import Conversion, Draft
from pliant.checkpoints.heads import move_box_predictor, move_mask_predictor, pyramid_widths
from pliant.checkpoints.resnet import resnet_name, take_input, trunk_prefix, trunk_settings

CAFFE_MEAN = (123.675, 116.28, 103.53)  # red first
POOL = r"bbox_roi_extractor\.roi_layers"


def convert_mmdetection(state: Mapping[str, Tensor], *, caffe: bool = False) -> Conversion:
    """Convert a state dict of mmdetection.

    Args:
        state: names and tensors.
        caffe: whether the model was trained with `style='caffe'`: strides in the 1x1 convolutions, BGR images.

    Raises:
        PliantError: another system than the two, or another backbone than torchvision's or timm's ResNets.
    """
    # 1.x calls roi_head.bbox_head and its neighbours bbox_head, and conv2.conv_offset of its first months conv2_offset.
    draft = Draft("mmdetection", state)
    first = "roi_head." if any(name.startswith("roi_head.") for name in state) else ""
    if f"{first}bbox_head.0.fc_cls.weight" in state:
        fix = "give a Faster R-CNN or a Mask R-CNN"
        fail("checkpoint", "must have one box head", "those of a Cascade R-CNN", fix)
    draft.leave_counters()
    settings = _move_trunk(draft, caffe)
    draft.rename(r"neck\.lateral_convs\.(\d)\.conv\.(weight|bias)", r"backbone.fpn.inner_blocks.\1.0.\2")
    draft.rename(r"neck\.fpn_convs\.([0-3])\.conv\.(weight|bias)", r"backbone.fpn.layer_blocks.\1.0.\2")
    draft.rename(r"rpn_head\.rpn_conv\.(weight|bias)", r"rpn.head.conv.0.0.\1")
    draft.rename(r"rpn_head\.rpn_cls\.(weight|bias)", r"rpn.head.cls_logits.\1")
    draft.rename(r"rpn_head\.rpn_reg\.(weight|bias)", r"rpn.head.bbox_pred.\1")
    draft.rename(rf"{first}bbox_head\.shared_fcs\.0\.(weight|bias)", r"roi_heads.box_head.fc6.\1")
    draft.rename(rf"{first}bbox_head\.shared_fcs\.1\.(weight|bias)", r"roi_heads.box_head.fc7.\1")
    _note_versions(draft, first)
    labels = move_box_predictor(draft, f"{first}bbox_head.fc_cls", f"{first}bbox_head.fc_reg")
    settings |= _move_pools(draft, first)
    if f"{first}mask_head.conv_logits.weight" in draft.state:
        settings["model"] = "mask-rcnn"
        convs = r"roi_heads.mask_head.\1.0.\2"
        draft.rename(rf"{first}mask_head\.convs\.(\d)\.conv\.(weight|bias)", convs)
        move_mask_predictor(draft, f"{first}mask_head.upsample", f"{first}mask_head.conv_logits", labels)
    return draft.finish(settings | pyramid_widths(draft.tensors), labels)


def _move_trunk(draft: Draft, caffe: bool) -> dict[str, Any]:
    backbone = resnet_name(draft.state, "backbone.")
    own = trunk_prefix(backbone)
    draft.rename(r"backbone\.(layer\d\.\d+\.conv\d)_offset\.(weight|bias)", rf"{own}\1.conv_offset.\2")
    draft.rename(r"backbone\.((?:conv1|bn1|layer\d)\..+)", rf"{own}\1")
    if caffe:
        take_input(draft, own, CAFFE_MEAN, bgr=True)
        draft.notes.append("mmdetection's first caffe models had the means (122.7717, 115.9465, 102.9801)")
    else:
        draft.notes.append(
            "the stride of a stage is taken to be in its 3x3 convolution (style='pytorch') and images to be in RGB, as "
            "in all configs of dcn and dcnv2; the file does not say; --from mmdetection-caffe takes the other style"
        )
    network = f"{backbone}-caffe" if caffe else backbone
    return {"model": "faster-rcnn", **trunk_settings(network, draft.tensors, own)}


def _move_pools(draft: Draft, first: str) -> dict[str, Any]:
    """Take the branches of the deformable RoI pools, one for each map."""
    target = r"roi_heads.box_roi_pool.levels.\1.\2"
    taken = draft.rename(rf"{first}{POOL}\.(\d)\.((?:offset|mask)_fc\.\d\.(?:weight|bias))", target)
    if not taken:
        return {}
    draft.notes.append("mmcv pools a bin by as many samples as it is cells wide, pliant's detectors by 2 x 2")
    modulated = "roi_heads.box_roi_pool.levels.0.mask_fc.0.weight" in draft.tensors
    return {"roi_pool": "modulated" if modulated else "deform", "roi_branch": "mmcv", "roi_shared": False}


def _note_versions(draft: Draft, first: str) -> None:
    draft.notes.append("mmdetection does not round its anchors and torchvision does: they differ by up to half a pixel")
    if first:
        draft.notes.append(
            "RoIAlign of mmdetection 2.x and later samples half a cell further up and left (aligned=True)"
        )
    else:
        draft.notes.append("mmdetection 1.x takes boxes to be one pixel wider and higher, for anchors and deltas")
