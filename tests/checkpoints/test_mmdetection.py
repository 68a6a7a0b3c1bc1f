# SPDX-License-Identifier: Apache-2.0
"""mmdetection's state dicts: the names and shapes of its own models, and the numbers that pliant's then gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.detectors import build
from helpers.states import listed, model_of, randomised, renamed
from pliant._check import PliantError
from pliant.checkpoints import fit
from pliant.checkpoints.mmdetection import convert_mmdetection
from pliant.detection import mask_rcnn

pytestmark = pytest.mark.filterwarnings("ignore:mask_scale=")

COMMON = {"norm": "frozen", "frozen_stages": 2, "fpn_channels": 256, "head_channels": 1024, "backbone": "resnet50"}
V1_POOL = {"roi_pool": "deform", "roi_branch": "mmcv", "roi_shared": False}
CASES: list[tuple[str, dict[str, Any]]] = [
    (
        "faster-rcnn_r50-mdconv-group4-c3-c5",
        {"model": "faster-rcnn", "deform": "c3-c5", "modulated": True, "offset_groups": 4, "mask_scale": 1.0},
    ),
    (
        "mask-rcnn_r50-dconv-c3-c5",
        {"model": "mask-rcnn", "deform": "c3-c5", "modulated": False, "offset_groups": 1, "mask_scale": 1.0},
    ),
    ("faster-rcnn_r50-dpool", {"model": "faster-rcnn", **V1_POOL}),
    ("faster-rcnn_r50-mdpool", {"model": "faster-rcnn", **V1_POOL, "roi_pool": "modulated"}),
]


def _version_1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of mmdetection 1.x, in its first months."""
    rules = {r"roi_head\.(.*)": r"\1", r"(.*\.conv2)\.conv_offset\.(.*)": r"\1_offset.\2", r"(.*)": r"\1"}
    result = renamed(state, rules)
    # The background was the first class and had boxes, too.
    for name in ("weight", "bias"):
        boxes = result[f"bbox_head.fc_reg.{name}"]
        result[f"bbox_head.fc_reg.{name}"] = torch.empty(324, *boxes.shape[1:], device="meta")
    return result


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=[name for name, _ in CASES])
def test_the_models_of_dcn_and_dcnv2_fit(name: str, settings: dict[str, Any], version: int) -> None:
    state = listed(f"mmdetection-3.3_{name}.txt")
    conversion = convert_mmdetection(_version_1(state) if version == 1 else state)
    assert conversion.settings == {**COMMON, **settings}
    assert conversion.labels == 80
    assert all(name.endswith("num_batches_tracked") for name in conversion.left)
    assert len(conversion.left) + len(conversion.entries) == len(state)
    fit(conversion, model_of(conversion))


RULES = {
    r"backbone\.body\.(.*)": r"backbone.\1",
    r"backbone\.fpn\.inner_blocks\.(\d)\.0\.(.*)": r"neck.lateral_convs.\1.conv.\2",
    r"backbone\.fpn\.layer_blocks\.(\d)\.0\.(.*)": r"neck.fpn_convs.\1.conv.\2",
    r"rpn\.head\.conv\.0\.0\.(.*)": r"rpn_head.rpn_conv.\1",
    r"rpn\.head\.cls_logits\.(.*)": r"rpn_head.rpn_cls.\1",
    r"rpn\.head\.bbox_pred\.(.*)": r"rpn_head.rpn_reg.\1",
    r"roi_heads\.box_head\.fc6\.(.*)": r"roi_head.bbox_head.shared_fcs.0.\1",
    r"roi_heads\.box_head\.fc7\.(.*)": r"roi_head.bbox_head.shared_fcs.1.\1",
    r"roi_heads\.box_predictor\.cls_score\.(.*)": r"roi_head.bbox_head.fc_cls.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(.*)": r"roi_head.bbox_head.fc_reg.\1",
    r"roi_heads\.mask_head\.(\d)\.0\.(.*)": r"roi_head.mask_head.convs.\1.conv.\2",
    r"roi_heads\.mask_predictor\.conv5_mask\.(.*)": r"roi_head.mask_head.upsample.\1",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.*)": r"roi_head.mask_head.conv_logits.\1",
}


def test_the_order_of_classes_is_turned_and_the_function_kept() -> None:
    options: dict[str, Any] = {
        "deform": "c5",
        "mask_scale": 1.0,
        "min_size": 64,
        "fpn_channels": 8,
        "head_channels": 16,
    }
    options |= {"norm": "frozen", "score_threshold": 0.0, "max_detections": 8}
    model = randomised(build(mask_rcnn, 4, **options))
    state = renamed(model.state_dict(), RULES)
    for name, background in (("bbox_head.fc_cls", "last"), ("bbox_head.fc_reg", 4), ("mask_head.conv_logits", 1)):
        for kind in ("weight", "bias"):
            rows = state[f"roi_head.{name}.{kind}"]
            kept = torch.cat([rows[1:], rows[:1]]) if background == "last" else rows[background:]
            state[f"roi_head.{name}.{kind}"] = kept
    conversion = convert_mmdetection(state)
    assert conversion.labels == 3
    fresh = build(mask_rcnn, 4, **options).eval()
    fresh.load_state_dict(fit(conversion, fresh).tensors)
    image = torch.rand(3, 64, 90)
    for ours, theirs in zip(fresh([image]), model([image]), strict=True):
        assert len(theirs["boxes"]) > 5
        for key in ("boxes", "labels", "scores", "masks"):
            assert torch.equal(ours[key], theirs[key])
    hows = {entry.target: entry.how for entry in conversion.entries if entry.how != "as it is"}
    assert hows["roi_heads.box_predictor.cls_score.bias"] == "background moved from the last row to the first"
    assert len(hows) == 6


def test_the_caffe_style_turns_colours_and_strides() -> None:
    state = listed("mmdetection-3.3_faster-rcnn_r50-mdconv-group4-c3-c5.txt")
    state["backbone.conv1.weight"] = torch.rand(64, 3, 7, 7)
    state["backbone.bn1.running_mean"] = torch.rand(64)
    conversion = convert_mmdetection(state, caffe=True)
    assert conversion.settings["backbone"] == "resnet50-caffe"
    for ours, theirs, deviation in ((0, 2, 0.229), (1, 1, 0.224), (2, 0, 0.225)):
        converted = conversion.tensors["backbone.body.conv1.weight"][:, ours]
        torch.testing.assert_close(converted, state["backbone.conv1.weight"][:, theirs] * 255 * deviation)
    means = conversion.tensors["backbone.body.bn1.running_mean"]  # the means in 0..255 are ImageNet's, as pliant's are
    torch.testing.assert_close(means, state["backbone.bn1.running_mean"], rtol=0, atol=1e-3)
    fit(conversion, model_of(conversion))


def test_one_box_for_all_classes_is_repeated() -> None:
    state = listed("mmdetection-3.3_faster-rcnn_r50-mdconv-group4-c3-c5.txt")
    state["roi_head.bbox_head.fc_reg.weight"] = torch.arange(4.0)[:, None].expand(4, 1024)
    state["roi_head.bbox_head.fc_reg.bias"] = torch.arange(4.0)
    converted = convert_mmdetection(state).tensors["roi_heads.box_predictor.bbox_pred.bias"]
    assert converted.tolist() == [0.0, 1.0, 2.0, 3.0] * 81


def test_what_does_not_belong_is_named() -> None:
    state = listed("mmdetection-3.3_faster-rcnn_r50-mdconv-group4-c3-c5.txt")
    state["roi_head.extra.weight"] = torch.empty(2, 3, device="meta")
    conversion = convert_mmdetection(state)
    assert conversion.left["roi_head.extra.weight"] == "nothing in pliant's model takes it"
    assert "roi_head.extra.weight" in conversion.table()
    state["backbone.layer2.1.conv1.weight"] = torch.empty(128, 511, 1, 1, device="meta")
    conversion = convert_mmdetection(state)
    rule = r"must have backbone.body.layer2.1.conv1.weight in the shape \(128, 512, 1, 1\)"
    with pytest.raises(PliantError, match=rf"{rule}; got backbone.layer2.1.conv1.weight of shape \(128, 511, 1, 1\)"):
        fit(conversion, model_of(conversion))
    del state["backbone.layer2.1.conv1.weight"], state["backbone.bn1.bias"], state["rpn_head.rpn_conv.bias"]
    with pytest.raises(
        PliantError, match=r"no others; got a checkpoint without backbone.body.bn1.bias, .* and 0 more|bias"
    ):
        fit(convert_mmdetection(state), model_of(conversion))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"roi_head.bbox_head.fc_cls.bias": None},
            "checkpoint: must hold roi_head.bbox_head.fc_cls.bias; got 37. tensors",
        ),
        ({"roi_head.bbox_head.0.fc_cls.weight": (81, 1024)}, "must have one box head; got those of a Cascade R-CNN"),
        (
            {"roi_head.bbox_head.fc_reg.bias": (160,)},
            "must have 4 numbers of a box for each of 81 classes.*fc_reg with 160",
        ),
        ({"backbone.layer3.6.conv1.weight": (8, 8, 1, 1)}, r"must have one of the backbones .*blocks"),
        (
            {"backbone.layer3.1.conv2.conv_offset.weight": (25, 256, 3, 3)},
            r"must have offset branches of one kind, 18 .* or 27 .*; got \(108, 128, 3, 3\)",
        ),
    ],
)
def test_refused(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    state = listed("mmdetection-3.3_faster-rcnn_r50-mdconv-group4-c3-c5.txt")
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.empty(shape, device="meta")
    with pytest.raises(PliantError, match=message):
        convert_mmdetection(state)
