# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling over a pyramid: levels, scales, and its place in torchvision's detectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from helpers.detectors import build as build_detector
from pliant._check import PliantError
from pliant.detection import MultiScaleDeformRoIPool, faster_rcnn, mask_rcnn, pyramid_backbone
from pliant.nn import DeformRoIPool

CHANNELS = 4
NAMES = ["0", "1", "2"]
IMAGES = [(150, 252), (160, 224)]  # heights and widths before padding to 160 x 256
# Square roots of areas: 39, 177; 125, 50, 177. With 80 pixels at stride 16 these are strides 8, 32; 16, 8, 32.
BOXES = [
    torch.tensor([[10.0, 12.0, 50.0, 50.0], [3.0, 8.0, 240.0, 140.0]]),
    torch.tensor([[0.0, 0.0, 130.0, 120.0], [20.0, 9.0, 61.0, 70.0], [5.0, 5.0, 215.0, 155.0]]),
]
EXPECTED_LEVELS = [0, 2, 1, 0, 2]


@pytest.fixture
def maps() -> dict[str, Tensor]:
    shapes = {"0": (20, 32), "1": (10, 16), "2": (5, 8), "pool": (3, 4)}
    return {name: torch.rand(2, CHANNELS, *shape) for name, shape in shapes.items()}


def build(**options: Any) -> MultiScaleDeformRoIPool:
    arguments = {"canonical_scale": 80, "canonical_level": 4, "hidden_channels": 8, **options}
    return MultiScaleDeformRoIPool(NAMES, (3, 2), 2, CHANNELS, **arguments)


def by_hand(maps: dict[str, Tensor], levels: list[int]) -> Tensor:
    """Each region alone, from the map of its level: strides 8, 16 and 32."""
    rows = []
    for (image, box), level in zip(((i, b) for i, boxes in enumerate(BOXES) for b in boxes), levels, strict=True):
        region = torch.cat([torch.tensor([float(image)]), box])[None]
        rows.append(roi_align(maps[str(level)], region, (3, 2), 2.0 ** -(3 + level), 2, aligned=True))
    return torch.cat(rows)


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("modulated", "factor"), [(False, 1.0), (True, 0.5)])
def test_starts_as_roi_align_of_the_right_level(
    maps: dict[str, Tensor], shared: bool, modulated: bool, factor: float
) -> None:
    pool = build(shared=shared, modulated=modulated)
    assert len(pool.levels) == (1 if shared else 3)
    torch.testing.assert_close(pool(maps, BOXES, IMAGES), factor * by_hand(maps, EXPECTED_LEVELS))


def test_levels_are_torchvisions() -> None:
    boxes = torch.rand(400, 4) * torch.tensor([300.0, 300.0, 640.0, 490.0])
    boxes[:, 2:] += boxes[:, :2]
    pool = MultiScaleDeformRoIPool(["a", "b", "c", "d"], 1, 1, 1)
    maps = {
        name: torch.zeros(1, 1, 800 // stride, 960 // stride)
        for name, stride in zip("abcd", (4, 8, 16, 32), strict=True)
    }
    for k, value in enumerate(maps.values()):
        value.fill_(k)
    with torch.no_grad():
        pooled = 2 * pool(maps, [boxes], [(800, 960)])  # half at the start
    levels = LevelMapper(2, 5)([boxes])
    assert len(levels.unique()) == 4
    torch.testing.assert_close(pooled.flatten(), levels.float())


def test_each_level_has_a_branch_of_its_own_where_asked(maps: dict[str, Tensor]) -> None:
    """Only the regions of the level whose branch speaks move; a shared branch moves all."""
    for shared, moved in ((False, [False, True, False, False, True]), (True, [True] * 5)):
        pool = build(shared=shared, modulated=False)
        before = pool(maps, BOXES, IMAGES)
        randomise(pool.levels[-1])
        changed = (pool(maps, BOXES, IMAGES) != before).flatten(1).any(1)
        assert changed.tolist() == moved


def test_every_region_is_pooled_as_the_layer_alone_would(maps: dict[str, Tensor]) -> None:
    pool = build(shared=False)
    randomise(pool)
    pooled = pool(maps, BOXES, IMAGES)
    regions = [(i, box) for i, boxes in enumerate(BOXES) for box in boxes]
    for row, (image, box), level in zip(pooled, regions, EXPECTED_LEVELS, strict=True):
        alone = pool.levels[level](maps[str(level)][image : image + 1], [box[None]], 2.0 ** -(3 + level))
        torch.testing.assert_close(row[None], alone)


def test_scales_follow_the_images_of_each_call(maps: dict[str, Tensor]) -> None:
    """Images twice as large on the same maps are at half the scale, also after another call."""
    pool = build()
    first = pool(maps, BOXES, IMAGES)
    doubled = [2 * boxes for boxes in BOXES]
    sizes = [(2 * height, 2 * width) for height, width in IMAGES]
    pool.canonical_scale = 160
    pool.canonical_level = 5
    torch.testing.assert_close(pool(maps, doubled, sizes)[0], first[0])
    torch.testing.assert_close(pool(maps, doubled, sizes)[2], first[2])


@pytest.mark.parametrize("size", [(66, 1333), (1333, 66)])
def test_scales_are_those_of_the_network_for_narrow_images_too(size: tuple[int, int]) -> None:
    """An image of 66 x 1333 is padded to 96 x 1344: its heights, 24 and 66, look like stride 2 on the first map."""
    padded = [-(-side // 32) * 32 for side in size]
    maps = {name: torch.rand(1, 1, *(side // s for side in padded)) for name, s in (("0", 4), ("1", 8))}
    pool = MultiScaleDeformRoIPool(["0", "1"], (3, 2), 2, 1, modulated=False, hidden_channels=4)
    box = torch.tensor([[20.0, 8.0, 52.0, 60.0]])
    expected = roi_align(maps["0"], [box], (3, 2), 1 / 4, 2, aligned=True)
    torch.testing.assert_close(pool(maps, [box], [size]), expected)


def test_no_regions_and_levels_without_regions_give_gradients_of_zero(maps: dict[str, Tensor]) -> None:
    pool = build(shared=False)
    assert pool(maps, [torch.zeros(0, 4)] * 2, IMAGES).shape == (0, CHANNELS, 3, 2)
    randomise(pool)
    pool(maps, [BOXES[0][:1], BOXES[1][:1]], IMAGES).square().sum().backward()
    spoken = [any(bool(p.grad.any()) for p in level.parameters() if p.grad is not None) for level in pool.levels]
    assert spoken == [True, True, False]
    assert all(p.grad is not None for p in pool.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(maps: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Maps of several types, as autocast leaves them, come back as the first map's, as torchvision's do."""
    pool = build()
    randomise(pool)
    with torch.autocast("cpu", dtype=dtype):
        mixed = {"0": maps["0"].to(dtype), **{name: maps[name] for name in NAMES[1:]}}
        pooled = pool(mixed, BOXES, IMAGES)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled.float(), pool(maps, BOXES, IMAGES), rtol=0.05, atol=0.05)


def test_compiles(maps: dict[str, Tensor]) -> None:
    torch.compiler.reset()
    pool = build(shared=False)
    randomise(pool)
    compiled = torch.compile(pool, backend="aot_eager")
    torch.testing.assert_close(compiled(maps, BOXES, IMAGES), pool(maps, BOXES, IMAGES))


def test_a_missing_map_is_named(maps: dict[str, Tensor]) -> None:
    del maps["1"]
    with pytest.raises(ValueError, match="x: must have the maps 0, 1, 2; got 0, 2, pool; check featmap_names"):
        build()(maps, BOXES, IMAGES)


def test_drops_into_torchvisions_detectors() -> None:
    """torchvision asks for a MultiScaleRoIAlign; targets of an image may be empty."""
    backbone = pyramid_backbone("resnet18", strides=(8, 16), out_channels=16)
    model = MaskRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        max_size=128,
        rpn_anchor_generator=faster_rcnn(3, backbone, head_channels=8).rpn.anchor_generator,
        box_roi_pool=MultiScaleDeformRoIPool(["0", "1"], 7, 2, 16, hidden_channels=8),
        mask_roi_pool=MultiScaleDeformRoIPool(["0", "1"], 14, 2, 16, hidden_channels=8, modulated=False),
    )
    losses = model(list(torch.rand(2, 3, 64, 80)), targets_of(masks=True))
    sum(losses.values()).backward()
    for pool in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool):
        last = list(pool.levels[0].offset_fc.parameters())[-1]
        assert last.grad is not None and last.grad.abs().max() > 0


def test_serves_a_detector_of_one_map_whether_anything_is_found_or_not() -> None:
    """A backbone may give a tensor, which torchvision calls map "0"; there may be no proposals, or no detections."""
    backbone = nn.Conv2d(3, 5, 16, 16)
    backbone.out_channels = 5  # type: ignore[assignment]
    model = MaskRCNN(
        backbone,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((24, 48),), ((1.0,),)),
        box_roi_pool=MultiScaleDeformRoIPool(["0"], 7, 2, 5, hidden_channels=4),
        mask_roi_pool=MultiScaleDeformRoIPool(["0"], (14, 14), 0, 5, modulated=False),
        box_head=TwoMLPHead(5 * 49, 8),
        box_predictor=FastRCNNPredictor(8, 3),
        mask_head=MaskRCNNHeads(5, (4,), dilation=1),
        mask_predictor=MaskRCNNPredictor(4, 4, 3),
        rpn_post_nms_top_n_train=9,
        rpn_post_nms_top_n_test=9,
        box_score_thresh=0.0,
        box_detections_per_img=4,
    )
    images = list(torch.rand(2, 3, 64, 80))
    sum(model(images, targets_of(masks=True)).values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    model.eval()
    assert all(len(found["boxes"]) and found["masks"].shape[1:] == (1, 64, 80) for found in model(images))
    model.roi_heads.score_thresh = 1.0
    assert [found["masks"].shape for found in model(images)] == [(0, 1, 64, 80)] * 2
    model.rpn._post_nms_top_n = {"training": 0, "testing": 0}
    assert [found["boxes"].shape for found in model(images)] == [(0, 4)] * 2


def targets_of(*, masks: bool) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 8.0, 50.0, 44.0], [30.0, 20.0, 70.0, 60.0]])
    pixels = torch.zeros(2, 64, 80, dtype=torch.uint8)
    pixels[0, 8:44, 4:50] = pixels[1, 20:60, 30:70] = 1
    full = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": pixels}
    empty = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": pixels[:0]}
    return [{k: v for k, v in target.items() if masks or k != "masks"} for target in (full, empty)]


SMALL: dict[str, Any] = {
    "strides": (8, 16),
    "fpn_channels": 16,
    "head_channels": 32,
    "min_size": 64,
    "max_size": 128,
}


@pytest.mark.parametrize("roi_pool", ["align", "deform", "modulated"])
@pytest.mark.parametrize("masks", [False, True])
def test_the_choice_of_pooling_reaches_every_pool_and_learns(roi_pool: str, masks: bool) -> None:
    options = {**SMALL, "roi_pool": roi_pool, **({"mask_channels": 8} if masks else {})}
    model = build_detector(mask_rcnn if masks else faster_rcnn, 3, **options)
    assert type(model) is (MaskRCNN if masks else FasterRCNN)
    pools = [model.roi_heads.box_roi_pool] + [model.roi_heads.mask_roi_pool] * masks
    sizes = [(7, 7), (14, 14)][: len(pools)]
    assert [pool.output_size for pool in pools] == sizes
    kinds = {"align": MultiScaleRoIAlign, "deform": MultiScaleDeformRoIPool, "modulated": MultiScaleDeformRoIPool}
    assert {type(pool) for pool in pools} == {kinds[roi_pool]}
    layers = [m for m in model.modules() if isinstance(m, DeformRoIPool)]
    assert [(m.modulated, m.sampling_ratio, m.gamma) for m in layers] == [
        (roi_pool == "modulated", 2, 0.1) for _ in layers
    ]
    losses = model(list(torch.rand(2, 3, 64, 80)), targets_of(masks=masks))
    assert ("loss_mask" in losses) == masks
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    found = model(list(torch.rand(1, 3, 64, 80)))[0]
    assert not masks or found["masks"].shape == (len(found["boxes"]), 1, 64, 80)


def test_mmcv_branches_for_each_level_have_the_names_of_mmdetections_extractor() -> None:
    """`bbox_roi_extractor.roi_layers.{level}.offset_fc...`: ours are `box_roi_pool.levels.{level}.offset_fc...`."""
    model = build_detector(faster_rcnn, 3, roi_pool="modulated", roi_branch="mmcv", roi_shared=False, **SMALL)
    names = set(model.roi_heads.box_roi_pool.state_dict())
    branch = [f"{part}.{i}.{kind}" for part, layers in (("offset_fc", (0, 2, 4)), ("mask_fc", (0, 2)))
              for i in layers for kind in ("weight", "bias")]  # fmt: skip
    assert names == {f"levels.{level}.{name}" for level in range(2) for name in branch}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"roi_pool": "modulate"},
            "roi_pool: must be one of align, deform, modulated; got 'modulate'; use 'modulated', for example. "
            "Did you mean 'modulated'?",
        ),
        (
            {"mask_channels": 8, "ohem": 64},
            "ohem: must be left out with masks, which are trained on sampled regions; got 64; leave it out",
        ),
    ],
)
def test_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError) as caught:
        build_detector(faster_rcnn, 3, **SMALL, **options)
    assert str(caught.value) == message
