# SPDX-License-Identifier: Apache-2.0
"""torchvision's Faster R-CNN and Mask R-CNN with a feature pyramid. Their names are pliant's, except in old files."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pliant.checkpoints.draft import Conversion, Draft
from pliant.checkpoints.heads import pyramid_widths
from pliant.checkpoints.resnet import resnet_name, trunk_prefix, trunk_settings

OLD = "renamed as torchvision itself did"


def convert_torchvision(state: Mapping[str, Tensor]) -> Conversion:
    """Convert a state dict of torchvision's detectors.

    Raises:
        PliantError: another system than the two, or another backbone than torchvision's ResNets.
    """
    draft = Draft("torchvision", state)
    draft.leave_counters()
    draft.rename(r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1", OLD)
    draft.rename(r"(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)", r"\1.0.\2", OLD)
    for k in range(4):
        draft.rename(rf"roi_heads\.mask_head\.mask_fcn{k + 1}\.(weight|bias)", rf"roi_heads.mask_head.{k}.0.\1", OLD)
    labels = len(draft.require("roi_heads.box_predictor.cls_score.bias")) - 1
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in draft.state
    backbone = resnet_name(draft.state, "backbone.body.")
    draft.rename(r"((?:backbone|rpn|roi_heads)\..+)", r"\1")
    trunk = trunk_settings(backbone, draft.tensors, trunk_prefix(backbone))
    model = "mask-rcnn" if masks else "faster-rcnn"
    return draft.finish({"model": model, **trunk, **pyramid_widths(draft.tensors)}, labels)
