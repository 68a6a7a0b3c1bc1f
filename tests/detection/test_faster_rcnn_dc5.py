# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN in the papers' form: maps, proposals, pooling, parameters, training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from helpers.blobs import PICTURE, TRUTH, losses_of_the_second_stage, without_gradient
from helpers.detectors import build
from pliant._check import PliantError
from pliant.backbones import Trunk
from pliant.detection import dilated_backbone, faster_rcnn_dc5
from pliant.nn import DeformConv2d, DeformRoIPool

SMALL = {"anchor_sizes": (16, 32), "rpn_channels": 24, "head_channels": 32, "min_size": 64, "max_size": 96}


def tiny(deform: str | None = None, **options: Any) -> GeneralizedRCNN:
    torch.manual_seed(2)
    backbone = dilated_backbone(Trunk("resnet18", deform=deform), reduction_channels=16)
    return build(faster_rcnn_dc5, 3, backbone, roi_samples=16, proposals=20, train_proposals=40, **{**SMALL, **options})


def count(roi_pool: str = "align", backbone: str = "resnet50", classes: int = 21, **options: Any) -> dict[str, int]:
    """Parameters of a whole detector, by its parts; on the meta device, so that nothing is filled."""
    with torch.device("meta"):
        model = build(faster_rcnn_dc5, classes, dilated_backbone(Trunk(backbone, **options)), roi_pool=roi_pool)
    return {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}


def test_conv5_has_stride_16_and_dilation_2_in_every_block() -> None:
    backbone = dilated_backbone(Trunk("resnet50", deform="c4-c5")).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 64, 96))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"c4": (1, 1024, 4, 6), "c5": (1, 256, 4, 6)}
    assert (maps["c5"] >= 0).all()
    layers = {n: m for n, m in backbone.named_modules() if isinstance(m, DeformConv2d)}
    dilated = {
        n for n, m in layers.items() if (m.stride, m.dilation, m.conv_offset.dilation) == ((1, 1), (2, 2), (2, 2))
    }
    assert len(layers) == 9
    assert dilated == {f"body.layer4.{k}.conv2" for k in range(3)}


def test_proposals_stand_on_conv4_and_regions_on_conv5() -> None:
    model = tiny().eval()
    seen: dict[str, tuple[int, ...]] = {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, args: seen.update({name: tuple(args[0].shape)}))

    watch("rpn", model.rpn.head.conv[0][0])
    watch("pool", model.roi_heads.box_roi_pool.pool)
    with torch.no_grad():
        model([PICTURE])
    assert seen == {"rpn": (1, 256, 4, 6), "pool": (1, 16, 4, 6)}  # the image is padded to 64 x 96
    head = model.rpn.head
    assert (head.conv[0][0].out_channels, head.cls_logits.out_channels, head.bbox_pred.out_channels) == (24, 6, 24)


@pytest.mark.parametrize(
    ("options", "added"),
    [
        # 18 offset channels (27 with the mask) from 512, 256 or 128 by 3x3, in 3, 6 and 4 layers.
        ({"deform": "c5", "modulated": False}, 3 * (512 * 9 * 18 + 18)),  # 0.249 M
        ({"deform": "c4", "modulated": False}, 6 * (256 * 9 * 18 + 18)),  # 0.249 M
        ({"deform": "c3", "modulated": False}, 4 * (128 * 9 * 18 + 18)),  # 0.083 M
        ({"deform": "c3-c5"}, 871_263),
        ({"roi_pool": "deform"}, 1_229_410),  # 12544 pooled features to 98
        ({"roi_pool": "modulated"}, 14_046_355),  # 12544 to 1024 to 1024 to 147
        ({"deform": "c5", "modulated": False, "offset_groups": 4}, 3 * (512 * 9 * 72 + 72)),  # 0.996 M
    ],
)
def test_parameters_added_to_resnet50(options: dict[str, Any], added: int) -> None:
    assert sum(count(**options).values()) - sum(count().values()) == added


def test_layers_that_become_deformable() -> None:
    with torch.device("meta"):
        layers = [
            sum(isinstance(m, DeformConv2d) for m in dilated_backbone(Trunk(name, deform="c3-c5")).modules())
            for name in ("resnet50", "resnet101")
        ]
    assert layers == [13, 30]


def test_parameters_of_the_v1_paper() -> None:
    plain = count(backbone="resnet101")
    ours = count("deform", "resnet101", deform="c5", modulated=False)
    trunk, reduction = 42_500_160, 2048 * 256 + 256
    fully_connected = (12544 * 1024 + 1024) + (1024 * 1024 + 1024) + 1025 * (21 + 4 * 21)
    assert plain == {
        "transform": 0,
        "backbone": trunk + reduction,
        "rpn": 1024 * 512 * 9 + 512 + 513 * 15 * 5,
        "roi_heads": fully_connected,
    }
    # Table 4 has 58.3 to 59.9 M, which is 1.6 M more.
    assert sum(ours.values()) - sum(plain.values()) == 1_229_410 + 248_886


def box_features(model: GeneralizedRCNN) -> Iterator[Tensor]:
    boxes = [torch.tensor([[3.0, 5, 60, 41], [20, 30, 33, 62]])]
    maps = {"c5": torch.rand(1, 16, 4, 6, generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        yield model.roi_heads.box_roi_pool(maps, boxes, [(64, 80)])


def test_deformable_pooling_starts_as_the_plain_one() -> None:
    plain, deform, modulated = (next(box_features(tiny(roi_pool=k))) for k in ("align", "deform", "modulated"))
    assert plain.shape == (2, 16, 7, 7)
    torch.testing.assert_close(deform, plain)
    torch.testing.assert_close(modulated, plain / 2)


def test_a_detector_with_deformable_parts_starts_with_the_plain_ones_detections() -> None:
    plain = tiny(score_threshold=0.0).eval()
    deform = tiny("c5", roi_pool="deform", score_threshold=0.0).eval()
    missing = deform.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all("offset" in name for name in missing)
    with torch.no_grad():
        ours, theirs = deform([PICTURE])[0], plain([PICTURE])[0]
    assert len(theirs["boxes"]) > 10
    torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("options", [{"roi_pool": "deform"}, {"roi_pool": "modulated"}, {"ohem": 12}], ids=str)
def test_the_second_stage_learns(options: dict[str, Any]) -> None:
    heads = tiny(**options).roi_heads
    first, last = losses_of_the_second_stage(heads, channels=16, steps=60)
    assert set(first) == {"loss_classifier", "loss_box_reg"}
    assert last["loss_classifier"] < 0.5 * first["loss_classifier"]
    for pool in (m for m in heads.modules() if isinstance(m, DeformRoIPool)):
        assert all(layer.weight.ne(0).any() for layer in pool.offset_fc if isinstance(layer, nn.Linear))


def test_a_step_trains_every_part() -> None:
    model = tiny("c5", roi_pool="deform")
    assert without_gradient(model) == []
    losses = model([PICTURE], [TRUTH])
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


def test_detections_have_torchvisions_form() -> None:
    with torch.no_grad():
        found = tiny("c5", roi_pool="modulated", score_threshold=0.0).eval()([PICTURE, PICTURE[:, :50]])
    assert [sorted(image) for image in found] == [["boxes", "labels", "scores"]] * 2
    assert found[0]["boxes"].shape == (len(found[0]["labels"]), 4)
    assert len(found[1]["scores"]) > 0
    assert found[1]["boxes"].amax(dim=0).le(torch.tensor([80.0, 50, 80, 50])).all()  # inside the image as it was given


def test_class_agnostic_boxes_train() -> None:
    model = tiny(class_agnostic=True).train()
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 8
    losses = model([PICTURE], [TRUTH])
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_pool": "mask"}, "roi_pool: must be one of align, deform, modulated, max; got 'mask'"),
        ({"ohem": 0}, "ohem: must be at least 1; got 0"),
        (
            {"ohem": 8, "mask_channels": 8},
            "ohem: must be left out with masks, which are trained on sampled regions; got 8",
        ),
        ({"anchor_ratios": ()}, r"anchor_ratios: must be positive numbers, at least one; got \(\)"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError, match=message):
        tiny(**options)


def test_trunks_without_the_strides_are_refused() -> None:
    with pytest.raises(PliantError, match=r"output_stride: needs stages that downsample by centred convolutions"):
        dilated_backbone("timm:resnet26d")


def test_max_pooling_takes_the_greatest_cell_of_a_bin() -> None:
    pool = tiny(roi_pool="max").roi_heads.box_roi_pool
    cells = torch.arange(14 * 14.0).reshape(1, 1, 14, 14)
    whole = torch.tensor([[0.0, 0.0, 13 * 16.0, 13 * 16.0]])  # 14 x 14 cells, two to a bin and axis, the last included
    pooled = pool({"c5": cells}, [whole], [(224, 224)])
    assert torch.equal(pooled, cells[..., 1::2, 1::2])
    half = pool({"c5": cells.bfloat16()}, [whole], [(224, 224)])  # as under autocast, which leaves boxes alone
    assert torch.equal(half, cells.bfloat16()[..., 1::2, 1::2])


@pytest.mark.parametrize("roi_pool", ["align", "modulated"])
def test_masks_are_trained_and_pasted(roi_pool: str) -> None:
    model = tiny(roi_pool=roi_pool, mask_channels=8, class_agnostic=True, score_threshold=0.0).train()
    masks = torch.zeros(2, 64, 80, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, TRUTH["boxes"].int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    losses = model([PICTURE], [{**TRUTH, "masks": masks}])
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
    losses["loss_mask"].backward()
    assert model.roi_heads.mask_predictor.conv5_mask.weight.grad.any()
    if roi_pool == "modulated":
        assert model.roi_heads.mask_roi_pool.pool.offset_fc[-1].weight.grad.any()
    with torch.no_grad():
        found = model.eval()([PICTURE])[0]
    assert found["masks"].shape == (len(found["scores"]), 1, 64, 80)
    assert len(found["scores"]) > 0
    # Pasted where the boxes are: nothing outside, with a pixel for rounding.
    for (x1, y1, x2, y2), mask in zip(found["boxes"].tolist(), found["masks"][:, 0], strict=True):
        rows, columns = mask.nonzero().unbind(1)
        assert y1 - 2 <= rows.min() and rows.max() <= y2 + 2 and x1 - 2 <= columns.min() and columns.max() <= x2 + 2


def test_masks_on_images_without_objects_train() -> None:
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 80, dtype=torch.uint8),
    }
    losses = tiny(roi_pool="deform", mask_channels=8).train()([PICTURE], [empty])
    assert losses["loss_mask"].item() == 0
    assert all(loss.isfinite() for loss in losses.values())
