# SPDX-License-Identifier: Apache-2.0
"""The official MXNet code's parameters: names and shapes as its symbols have them, proposals by its own arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList

from helpers.states import model_of
from pliant._check import PliantError
from pliant.checkpoints import fit
from pliant.checkpoints.convert import recognise
from pliant.checkpoints.mxnet_systems import convert_mxnet
from pliant.detection import AnchorOptions
from pliant.detection.proposals import ProposalHead, map_anchors

pytestmark = pytest.mark.filterwarnings("ignore:mask_scale=")

CLASSES = 21
STATISTICS = {"gamma": "arg", "beta": "arg", "moving_mean": "aux", "moving_var": "aux"}


def _norm(name: str, channels: int) -> dict[str, Tensor]:
    return {f"{kind}:{name}_{what}": torch.empty(channels) for what, kind in STATISTICS.items()}


def _layer(name: str, *shape: int) -> dict[str, Tensor]:
    return {f"arg:{name}_weight": torch.empty(shape), f"arg:{name}_bias": torch.empty(shape[0])}


def trunk_state(offset_channels: int) -> dict[str, Tensor]:
    """ResNet-101 as the symbols name it: res3b1 to res3b3, res4b1 to res4b22, res2b, res2c; offsets in conv5."""
    state, inputs = {"arg:conv1_weight": torch.empty(64, 3, 7, 7), **_norm("bn_conv1", 64)}, 64
    numbered = {3: ["a", "b1", "b2", "b3"], 4: ["a", *(f"b{k}" for k in range(1, 23))]}
    for stage in (2, 3, 4, 5):
        inner, outputs = 64 * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in numbered.get(stage, ["a", "b", "c"]):
            branches = {"2a": (inner, inputs, 1, 1), "2b": (inner, inner, 3, 3), "2c": (outputs, inner, 1, 1)}
            branches |= {"1": (outputs, inputs, 1, 1)} if block == "a" else {}
            for branch, shape in branches.items():
                state[f"arg:res{stage}{block}_branch{branch}_weight"] = torch.empty(shape)
                state |= _norm(f"bn{stage}{block}_branch{branch}", shape[0])
            if stage == 5 and offset_channels:
                state |= _layer(f"res5{block}_branch2b_offset", offset_channels, inner, 3, 3)
            inputs = outputs
    return state


def proposal_state(anchors: int, channels: int) -> dict[str, Tensor]:
    """The proposal network on conv4, and the 1x1 convolution on conv5."""
    state = _layer("rpn_conv_3x3", 512, 1024, 3, 3) | _layer("rpn_cls_score", 2 * anchors, 512, 1, 1)
    return state | _layer("rpn_bbox_pred", 4 * anchors, 512, 1, 1) | _layer("conv_new_1", channels, 2048, 1, 1)


def rfcn_state(*, deform: bool, anchors: int = 12) -> dict[str, Tensor]:
    """R-FCN with class-agnostic boxes; a checkpoint holds the boxes' weights a second time."""
    state = trunk_state(72 if deform else 0) | proposal_state(anchors, 1024)
    state |= _layer("rfcn_cls", 49 * CLASSES, 1024, 1, 1) | _layer("rfcn_bbox", 49 * 8, 1024, 1, 1)
    for kind in ("weight", "bias"):
        state[f"arg:rfcn_bbox_{kind}_test"] = torch.empty_like(state[f"arg:rfcn_bbox_{kind}"])
    if deform:
        state |= _layer("rfcn_cls_offset_t", 98 * CLASSES, 1024, 1, 1) | _layer("rfcn_bbox_offset_t", 98, 1024, 1, 1)
    return state


def faster_rcnn_state() -> dict[str, Tensor]:
    """Faster R-CNN with deformable RoI pooling."""
    state = trunk_state(72) | proposal_state(9, 256) | _layer("offset", 98, 256 * 49)
    state |= _layer("fc_new_1", 1024, 256 * 49) | _layer("fc_new_2", 1024, 1024)
    return state | _layer("cls_score", CLASSES, 1024) | _layer("bbox_pred", 4 * CLASSES, 1024)


def deeplab_state(classes: int) -> dict[str, Tensor]:
    """DeepLab, with the fixed weights of its upsampling."""
    state = trunk_state(18) | _layer("fc6", 1024, 2048, 1, 1) | _layer("score", classes, 1024, 1, 1)
    return state | {"arg:upsampling_weight": torch.empty(classes, 1, 32, 32)}


DEFORMABLE = {"deform": "c5", "modulated": False, "mask_scale": 1.0, "offset_groups": 4}
TRUNK = {"backbone": "resnet101-mxnet", "norm": "frozen", "frozen_stages": 2}
COCO = {"anchor_sizes": (64.0, 128.0, 256.0, 512.0), "rpn_channels": 512}
SYSTEMS: dict[str, tuple[Any, dict[str, Any], int, int]] = {
    "rfcn-dcn": (
        lambda: rfcn_state(deform=True),
        {
            "model": "rfcn",
            **DEFORMABLE,
            **COCO,
            "roi_pool": "deform",
            "class_agnostic": True,
            "reduction_channels": 1024,
        },
        20,
        2,
    ),
    "rfcn": (
        lambda: rfcn_state(deform=False),
        {"model": "rfcn", **COCO, "roi_pool": "align", "class_agnostic": True, "reduction_channels": 1024},
        20,
        2,
    ),
    "faster-rcnn-dcn": (
        faster_rcnn_state,
        {
            "model": "faster-rcnn-dc5",
            **DEFORMABLE,
            "anchor_sizes": (128.0, 256.0, 512.0),
            "rpn_channels": 512,
            "roi_pool": "deform",
            "class_agnostic": False,
            "reduction_channels": 256,
            "min_size": (600,),
            "max_size": 1000,
        },
        20,
        0,
    ),
    "deeplab-dcn": (
        lambda: deeplab_state(19),
        {"model": "deeplab", **DEFORMABLE, "offset_groups": 1, "min_size": (1024,), "max_size": 2048},
        19,
        1,
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_official_systems_fit(name: str) -> None:
    build, settings, labels, left = SYSTEMS[name]
    with torch.device("meta"):
        state = build()
        assert recognise(state) == "mxnet"
        conversion = convert_mxnet(state)
    assert conversion.settings == {**TRUNK, **settings}
    assert (conversion.labels, len(conversion.left)) == (labels, left)
    assert {entry.source for entry in conversion.entries} | set(conversion.left) == set(state)
    fit(conversion, model_of(conversion))
    place = {entry.source: entry.target for entry in conversion.entries}
    own = "backbone." if name.startswith("deeplab") else "backbone.body."
    assert place["arg:res4b22_branch2c_weight"] == f"{own}layer3.22.conv3.weight"
    assert place["arg:res2c_branch2a_weight"] == f"{own}layer1.2.conv1.weight"
    assert place["aux:bn5a_branch1_moving_var"] == f"{own}layer4.0.downsample.1.running_var"
    changed = {entry.source for entry in conversion.entries if entry.how != "as it is"}
    proposals = {f"arg:rpn_{layer}_{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")}
    own_proposals = set() if name.startswith("deeplab") else proposals
    assert changed == {"arg:conv1_weight", "aux:bn_conv1_moving_mean"} | own_proposals
    if "deform" in settings:
        assert place["arg:res5b_branch2b_offset_bias"] == f"{own}layer4.1.conv2.conv_offset.bias"


def test_proposals_are_the_official_codes() -> None:
    with torch.device("meta"):
        state = faster_rcnn_state()
    state |= {name: torch.randn(tensor.shape) * 0.02 for name, tensor in state.items() if "rpn" in name}
    tensors = convert_mxnet(state).tensors
    head, anchors = ProposalHead(1024, 9), map_anchors(AnchorOptions((128, 256, 512), ratios=(0.5, 1, 2)))
    head.load_state_dict({name.removeprefix("rpn.head."): t for name, t in tensors.items() if "rpn" in name})
    hidden = torch.rand(1, 512, 3, 5)
    scores, deltas = (
        torch.nn.functional.conv2d(hidden, state[f"arg:{name}_weight"], state[f"arg:{name}_bias"])[0]
        for name in ("rpn_cls_score", "rpn_bbox_pred")
    )
    expected, probabilities = [], []
    for y in range(3):
        for x in range(5):
            for k, (ratio, scale) in enumerate((r, s) for r in (0.5, 1, 2) for s in (8, 16, 32)):
                # The code's anchors, whose corners are pixels that they hold, around the cell's middle pixel.
                width = round(math.sqrt(256 / ratio))
                height = round(width * ratio) * scale
                width *= scale
                dx, dy, dw, dh = deltas[4 * k : 4 * k + 4, y, x].tolist()
                cx, cy = 16 * x + 7.5 + dx * width, 16 * y + 7.5 + dy * height
                w, h = width * math.exp(dw), height * math.exp(dh)
                inner = [cx - (w - 1) / 2, cy - (h - 1) / 2, cx + (w - 1) / 2, cy + (h - 1) / 2]
                expected.append([inner[0], inner[1], inner[2] + 1, inner[3] + 1])
                probabilities.append(scores[[k, 9 + k], y, x].softmax(0)[1].item())
    with torch.no_grad():
        objects, boxes = head.cls_logits(hidden), head.bbox_pred(hidden)
        places = anchors(ImageList(torch.zeros(1, 3, 48, 80), [(48, 80)]), [hidden])
        rows = boxes.view(9, 4, 3, 5).permute(2, 3, 0, 1).reshape(-1, 4)
        decoded = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(rows, places)[:, 0]
    torch.testing.assert_close(decoded, torch.tensor(expected), rtol=1e-4, atol=1e-2)
    ours = objects.sigmoid()[0].permute(1, 2, 0).flatten()
    torch.testing.assert_close(ours, torch.tensor(probabilities), rtol=1e-4, atol=1e-5)


def test_another_number_of_anchors_is_refused() -> None:
    with torch.device("meta"):
        state = rfcn_state(deform=True, anchors=15)
    with pytest.raises(PliantError, match=r"must have 12 or 9 anchors a cell, as the official experiments; got 15"):
        convert_mxnet(state)


def test_the_feature_pyramid_is_refused_by_name() -> None:
    with torch.device("meta"):
        state = faster_rcnn_state() | _layer("fpn_p5_1x1", 256, 2048, 1, 1) | _layer("fpn_p6", 256, 2048, 3, 3)
    with pytest.raises(
        PliantError, match=r"must be of an R-FCN, .*; got a feature pyramid .*; train one with --recipe"
    ):
        convert_mxnet(state)
