# SPDX-License-Identifier: Apache-2.0
"""R-FCN: position-sensitive scores and their vote, deformable pooling, parameters, training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from helpers.blobs import PICTURE, TRUTH, losses_of_the_second_stage, without_gradient
from helpers.detectors import build
from pliant._check import PliantError
from pliant.backbones import Trunk
from pliant.detection import dilated_backbone, rfcn
from pliant.detection.position_sensitive import PositionSensitivePool
from pliant.nn import DeformPSRoIPool

SMALL = {"anchor_sizes": (16, 32), "rpn_channels": 24, "min_size": 64, "max_size": 96}


def tiny(deform: str | None = None, **options: Any) -> GeneralizedRCNN:
    torch.manual_seed(2)
    backbone = dilated_backbone(Trunk("resnet18", deform=deform, modulated=False), reduction_channels=32)
    return build(rfcn, 3, backbone, proposals=20, train_proposals=40, **{**SMALL, **options})


def pool_of(model: GeneralizedRCNN) -> PositionSensitivePool:
    pool = model.roi_heads.box_roi_pool
    assert isinstance(pool, PositionSensitivePool)
    return pool


def test_maps_of_the_official_wiring() -> None:
    with torch.device("meta"):
        backbone = dilated_backbone(Trunk("resnet101", deform="c5", modulated=False), reduction_channels=1024)
        model = build(rfcn, 81, backbone, roi_pool="deform")
    pool = pool_of(model)
    assert isinstance(pool.score_pool, DeformPSRoIPool) and isinstance(pool.box_pool, DeformPSRoIPool)
    maps = [pool.scores, pool.boxes, pool.score_pool.conv_offset, pool.box_pool.conv_offset]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in maps] == [
        (1024, 49 * 81, (1, 1)),
        (1024, 49 * 8, (1, 1)),
        (1024, 2 * 49 * 81, (1, 1)),
        (1024, 2 * 49, (1, 1)),
    ]
    for layer, classes in ((pool.score_pool, 81), (pool.box_pool, 1)):
        assert (layer.classes, layer.group_size, layer.part_size, layer.samples_per_bin) == (classes, 7, 7, 4)
        assert (layer.gamma, layer.spatial_scale) == (0.1, 1 / 16)
    assert (model.roi_heads.ohem, model.roi_heads.class_agnostic, model.roi_heads.nms_thresh) == (128, True, 0.3)


def test_parameters_of_the_v1_paper() -> None:
    with torch.device("meta"):
        plain = rfcn(21, dilated_backbone("resnet101", reduction_channels=1024))
        backbone = dilated_backbone(Trunk("resnet101", deform="c5", modulated=False), reduction_channels=1024)
        ours = build(rfcn, 21, backbone, roi_pool="deform")
    counts = [sum(p.numel() for p in model.parameters()) for model in (plain, ours)]
    offsets = 1025 * 2 * 49 * (21 + 1)  # 2.110 M for the scores, 0.100 M for the boxes
    assert counts[1] - counts[0] == 248_886 + offsets  # Table 4 has 47.1 to 49.5 M, which is 2.4 M more
    trunk, reduction = 42_500_160, 2048 * 1024 + 1024
    assert counts[0] == trunk + reduction + 1025 * 49 * (21 + 8) + 1024 * 512 * 9 + 512 + 513 * 12 * 5


def test_the_vote_is_the_mean_over_positions() -> None:
    model = tiny(roi_pool="deform").eval()
    pool = pool_of(model)
    nn.init.zeros_(pool.scores.weight)
    nn.init.zeros_(pool.boxes.weight)
    values = torch.rand(3 * 49 + 8 * 49)
    with torch.no_grad():
        pool.scores.bias.copy_(values[: 3 * 49])  # type: ignore[union-attr]
        pool.boxes.bias.copy_(values[3 * 49 :])  # type: ignore[union-attr]
        logits, deltas = model.roi_heads.predict(
            {"c5": torch.rand(1, 32, 4, 6)}, [torch.tensor([[4.0, 6, 60, 50]])], [(64, 80)]
        )
    torch.testing.assert_close(logits[0], values[: 3 * 49].view(3, 49).mean(dim=1))
    torch.testing.assert_close(deltas[0], values[3 * 49 :].view(8, 49).mean(dim=1))


def test_each_position_of_a_region_looks_at_its_own_map() -> None:
    pool = pool_of(tiny(roi_pool="align"))
    nn.init.zeros_(pool.scores.weight)
    with torch.no_grad():
        # Class 1's map of position (2, 5) is lit, in a region that covers the whole map.
        pool.scores.bias.zero_()  # type: ignore[union-attr]
        pool.scores.bias[(1 * 7 + 2) * 7 + 5] = 3.0  # type: ignore[index]
        pooled = pool({"c5": torch.rand(1, 32, 8, 9)}, [torch.tensor([[0.0, 0, 143, 127]])], [(128, 144)])
    lit = pooled[0, :3].nonzero().tolist()
    assert lit == [[1, 2, 5]]
    assert pooled[0, 1, 2, 5].item() == pytest.approx(3.0)


def test_deformable_pooling_starts_as_the_plain_one() -> None:
    plain = tiny(roi_pool="align", score_threshold=0.0).eval()
    deform = tiny("c5", roi_pool="deform", score_threshold=0.0).eval()
    missing = deform.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all("conv_offset" in name for name in missing)
    with torch.no_grad():
        ours, theirs = deform([PICTURE])[0], plain([PICTURE])[0]
    assert len(theirs["boxes"]) > 10
    torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"roi_pool": "align"}, {"roi_pool": "deform"}, {"ohem": None, "class_agnostic": False}], ids=str
)
def test_the_second_stage_learns(options: dict[str, Any]) -> None:
    heads = tiny(**options).roi_heads
    first, last = losses_of_the_second_stage(heads, channels=32, steps=60)
    assert set(first) == {"loss_classifier", "loss_box_reg"}
    assert last["loss_classifier"] < 0.4 * first["loss_classifier"]
    for pool in (m for m in heads.modules() if isinstance(m, DeformPSRoIPool)):
        assert pool.conv_offset.weight.ne(0).any()


def test_a_step_trains_every_part() -> None:
    model = tiny("c5", roi_pool="deform")
    assert without_gradient(model) == []
    losses = model([PICTURE], [TRUTH])
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


def test_detections_have_torchvisions_form() -> None:
    with torch.no_grad():
        found = tiny("c5", roi_pool="deform", score_threshold=0.0).eval()([PICTURE, PICTURE[:, :50]])
    assert [sorted(image) for image in found] == [["boxes", "labels", "scores"]] * 2
    assert found[0]["boxes"].shape == (len(found[0]["labels"]), 4)
    assert len(found[1]["scores"]) > 0


def test_modulated_pooling_is_refused() -> None:
    with pytest.raises(PliantError, match=r"roi_pool: must be one of align, deform in R-FCN; got 'modulated'"):
        tiny(roi_pool="modulated")
