# SPDX-License-Identifier: Apache-2.0
"""detectron2's state dicts: names and shapes as its modules give them, and the function of its BGR networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.states import model_of, randomised
from pliant.backbones import Trunk
from pliant.backbones.own_networks import original_resnet
from pliant.checkpoints import fit
from pliant.checkpoints.detectron2 import convert_detectron2
from pliant.detection import faster_rcnn

pytestmark = pytest.mark.filterwarnings("ignore:mask_scale=")

NORM = ("weight", "bias", "running_mean", "running_var")
BLOCKS = (3, 4, 6, 3)


def _named(name: str, *shape: int) -> dict[str, Tensor]:
    """A layer with its bias."""
    return {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(shape[0])}


def _convolution(name: str, *shape: int) -> dict[str, Tensor]:
    """A convolution with its batch norm, which detectron2 keeps inside it."""
    return {f"{name}.weight": torch.empty(shape), **{f"{name}.norm.{k}": torch.empty(shape[0]) for k in NORM}}


def mask_rcnn_state(*, modulated: bool, groups: int = 1, width: int = 64) -> dict[str, Tensor]:
    """Mask R-CNN R-50 FPN with DeformBottleneckBlock in res3 to res5, as `GeneralizedRCNN.state_dict()` has it."""
    trunk, inputs = "backbone.bottom_up", 64
    state = _convolution(f"{trunk}.stem.conv1", 64, 3, 7, 7)
    for stage, blocks in enumerate(BLOCKS, 2):
        inner, outputs = width * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in range(blocks):
            name = f"{trunk}.res{stage}.{block}"
            state |= _convolution(f"{name}.shortcut", outputs, inputs, 1, 1) if block == 0 else {}
            state |= _convolution(f"{name}.conv1", inner, inputs, 1, 1)
            if stage > 2:
                state |= _named(f"{name}.conv2_offset", (27 if modulated else 18) * groups, inner, 3, 3)
            state |= _convolution(f"{name}.conv2", inner, inner, 3, 3)
            state |= _convolution(f"{name}.conv3", outputs, inner, 1, 1)
            inputs = outputs
    for level in range(2, 6):
        state |= _named(f"backbone.fpn_lateral{level}", 256, 256 * 2 ** (level - 2), 1, 1)
        state |= _named(f"backbone.fpn_output{level}", 256, 256, 3, 3)
        state[f"proposal_generator.anchor_generator.cell_anchors.{level - 2}"] = torch.empty(3, 4)
    head = "proposal_generator.rpn_head"
    state |= _named(f"{head}.conv", 256, 256, 3, 3) | _named(f"{head}.objectness_logits", 3, 256, 1, 1)
    state |= _named(f"{head}.anchor_deltas", 12, 256, 1, 1)
    heads = "roi_heads"
    state |= _named(f"{heads}.box_head.fc1", 1024, 256 * 49) | _named(f"{heads}.box_head.fc2", 1024, 1024)
    state |= _named(f"{heads}.box_predictor.cls_score", 81, 1024) | _named(
        f"{heads}.box_predictor.bbox_pred", 320, 1024
    )
    for k in range(1, 5):
        state |= _named(f"{heads}.mask_head.mask_fcn{k}", 256, 256, 3, 3)
    return (
        state
        | _named(f"{heads}.mask_head.deconv", 256, 256, 2, 2)
        | _named(f"{heads}.mask_head.predictor", 80, 256, 1, 1)
    )


@pytest.mark.parametrize(("modulated", "groups"), [(False, 1), (True, 2)])
def test_the_deformable_mask_rcnn_fits(modulated: bool, groups: int) -> None:
    with torch.device("meta"):
        state = mask_rcnn_state(modulated=modulated, groups=groups)
        conversion = convert_detectron2(state)
    assert conversion.settings == {
        "model": "mask-rcnn",
        "backbone": "resnet50-caffe",
        "deform": "c3-c5",
        "modulated": modulated,
        "offset_groups": groups,
        "mask_scale": 1.0,
        "norm": "frozen",
        "frozen_stages": 2,
        "fpn_channels": 256,
        "head_channels": 1024,
    }
    assert conversion.labels == 80
    assert all("cell_anchors" in name for name in conversion.left) and len(conversion.left) == 4
    fit(conversion, model_of(conversion))


def test_the_function_of_a_bgr_network_is_kept() -> None:
    network = randomised(original_resnet("resnet50"))
    old = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.device("meta"):
        state = mask_rcnn_state(modulated=False)
    for name in list(state):
        if "offset" in name or "mask" in name:
            del state[name]
    for name in state:
        bare = name.removeprefix("backbone.bottom_up.").replace("stem.", "").replace(".norm.", ".")
        if name.startswith("backbone.bottom_up.") and "shortcut" not in name:
            for stage in range(2, 6):
                bare = bare.replace(f"res{stage}.", f"layer{stage - 1}.")
            own = bare.replace("conv", "bn") if ".norm." in name else bare
            state[name] = old[own]
        elif "shortcut" in name:
            _, _, stage, block, *_ = name.split(".")
            place = 1 if ".norm." in name else 0
            state[name] = old[f"layer{int(stage[3]) - 1}.{block}.downsample.{place}.{name.rsplit('.', 1)[1]}"]
        else:
            state[name] = torch.zeros(state[name].shape)
    conversion = convert_detectron2(state)
    assert conversion.settings["backbone"] == "resnet50-caffe"
    model = faster_rcnn(81, Trunk("resnet50-caffe", norm="frozen"))
    model.load_state_dict(fit(conversion, model).tensors)
    rgb = torch.rand(1, 3, 64, 96)
    raw = 255 * rgb.flip(1) - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    normalised = (rgb - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        ours = list(model.eval().backbone.body(normalised).values())[-1]
        inner = network.maxpool(network.bn1(network.conv1(raw)).relu())
        theirs = network.layer4(network.layer3(network.layer2(network.layer1(inner))))
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_the_mean_and_deviation_of_the_file_are_used() -> None:
    with torch.device("meta"):
        state: dict[str, Any] = mask_rcnn_state(modulated=False)
    state["backbone.bottom_up.stem.conv1.weight"] = torch.rand(64, 3, 7, 7)
    for kind in NORM:
        state[f"backbone.bottom_up.stem.conv1.norm.{kind}"] = torch.ones(64)
    with_means = {
        **state,
        "pixel_mean": torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1),
        "pixel_std": torch.full((3, 1, 1), 2.0),
    }
    ours = convert_detectron2(with_means)
    weight = state["backbone.bottom_up.stem.conv1.weight"]
    scaled = weight[:, 2] * 255 * 0.229 / 2  # red is the last channel of the file and the first of pliant's
    torch.testing.assert_close(ours.tensors["backbone.body.conv1.weight"][:, 0], scaled)
    shift = sum(
        weight[:, 2 - k].sum((1, 2)) * (255 * m - o) / 2 for k, m, o in ((0, 0.485, 30), (1, 0.456, 20), (2, 0.406, 10))
    )
    torch.testing.assert_close(ours.tensors["backbone.body.bn1.running_mean"], 1 - shift)
    assert ours.left["pixel_mean"] == "rewritten into the first convolution"
