# SPDX-License-Identifier: Apache-2.0
"""Feature mimicking: the boxes, the crops and the loss by hand, the branch against the parts called one by one."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from helpers.detectors import build
from pliant._check import PliantError
from pliant.backbones import Trunk
from pliant.detection import (
    MimicOptions,
    add_mimicking,
    dilated_backbone,
    drop_mimicking,
    faster_rcnn,
    faster_rcnn_dc5,
    pyramid_backbone,
    rfcn,
)
from pliant.detection.mimic_parts import crop_boxes, draw_boxes, match_boxes, mimic_loss

IMAGES = list(torch.rand(2, 3, 96, 120, generator=torch.Generator().manual_seed(1)))
TARGETS = [
    {"boxes": torch.tensor([[8.0, 8.0, 60.0, 72.0], [70.0, 20.0, 110.0, 44.0]]), "labels": torch.tensor([2, 1])},
    {"boxes": torch.tensor([[30.0, 16.0, 90.0, 80.0]]), "labels": torch.tensor([3])},
]
for _image, _target in zip(IMAGES, TARGETS, strict=True):
    for (_x1, _y1, _x2, _y2), _label in zip(_target["boxes"].int().tolist(), _target["labels"].tolist(), strict=True):
        _image[_label - 1, _y1:_y2, _x1:_x2] += 3  # the classes are red, green and blue
# With an overlap of 1 the boxes are the ground truth and nothing else: what the branch gives can be recomputed.
GROUND_TRUTH_ONLY: dict[str, Any] = {"iou": 1.0, "crop_size": 64}


def _detector(norm: str = "frozen", **options: Any) -> FasterRCNN:
    torch.manual_seed(5)
    sizes = {"min_size": 96, "head_channels": 12, "fpn_channels": 8, "roi_samples": 512}
    return build(faster_rcnn, 4, norm=norm, **{**sizes, **options})


def _losses(model: FasterRCNN) -> dict[str, Tensor]:
    torch.manual_seed(6)
    losses: dict[str, Tensor] = model.train()(IMAGES, TARGETS)
    return losses


def _features_one_by_one(model: FasterRCNN, *, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's and the student's features of the ground-truth boxes, and the teacher's after the ReLU."""

    def head(pooled: Tensor) -> tuple[Tensor, Tensor]:
        before = model.roi_heads.box_head.fc7(model.roi_heads.box_head.fc6(pooled.flatten(1)).relu())
        return before, before.relu()

    images, targets = model.transform(IMAGES, TARGETS)
    boxes = [target["boxes"] for target in targets]
    pool = model.roi_heads.box_roi_pool
    student = head(pool(model.backbone(images.tensors), boxes, images.image_sizes))
    teachers = []
    for number, box in [(n, box) for n, part in enumerate(boxes) for box in part]:
        roi = torch.cat([torch.tensor([float(number)]), box])[None]
        crop = crop_boxes(images.tensors, roi, MimicOptions(crop_size=64))
        teachers.append(head(pool(model.backbone(crop), [torch.tensor([[0.0, 0.0, 64.0, 64.0]])], [(64, 64)])))
    before, after = (torch.cat(part) for part in zip(*teachers, strict=True))
    return (after, student[1], after) if relu else (before, student[0], after)


def test_the_loss_by_hand() -> None:
    teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0]])
    student = torch.tensor([[4.0, 3.0], [0.0, 7.0], [5.0, 0.0]])
    by_hand = (1 - 24 / 25) + 1 + 2
    for reduction, divisor in (("sum", 1), ("image", 2), ("mean", 3)):
        loss = mimic_loss(teacher, student, images=2, reduction=reduction)
        assert loss.item() == pytest.approx(by_hand / divisor, abs=1e-6)
    assert mimic_loss(teacher[:0], student[:0], images=2, reduction="mean").item() == 0


@pytest.mark.parametrize("length", [0.0, 1e-6, 2e-3, 0.5])
def test_the_gradient_of_a_short_feature_is_bounded(length: float) -> None:
    teacher = torch.tensor([[3.0, 4.0]])
    student = (length * torch.tensor([[1.0, 0.0]])).requires_grad_()
    loss = mimic_loss(teacher, student, images=1, reduction="sum")
    assert loss.item() == pytest.approx(1 - 0.6 * min(length / 0.01, 1))
    loss.backward()
    assert student.grad is not None
    wanted = [-60.0, -80.0] if length < 0.01 else [0.0, -0.8 / length]  # what is left is at a right angle
    assert student.grad[0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_labels_by_overlap() -> None:
    truth, labels = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 20.0]]), torch.tensor([4, 9])
    # Overlaps with the nearest box: 1, 0.6, exactly 0.5, 0.4, 0, and 0.75 with the second one.
    rights = (10.0, 6.0, 5.0, 4.0)
    proposals = [[0.0, 0.0, right, 10.0] for right in rights] + [[50.0, 0, 60, 10], [100.0, 0, 110, 15]]
    options: dict[str, Any] = {"iou": 0.5, "background_iou": 0.5, "ground_truth": True}
    assert match_boxes(torch.tensor(proposals), truth, labels, **options).tolist() == [4, 4, 4, 0, 0, 9]
    options = {"iou": 0.7, "background_iou": 0.5, "ground_truth": False}
    assert match_boxes(torch.tensor(proposals), truth, labels, **options).tolist() == [-1, -1, -1, 0, 0, 9]
    assert match_boxes(torch.tensor(proposals), truth[:0], labels[:0], **options).tolist() == [0] * 6


@pytest.mark.parametrize(
    ("options", "count", "allowed"),
    [
        ({"boxes_per_image": 3}, 3, {1, 2, 5}),
        ({"boxes_per_image": 9}, 4, {1, 2, 5}),
        ({"boxes_per_image": 9, "too_few": "repeat"}, 9, {1, 2, 5}),
        ({"boxes_per_image": 9, "boxes": "background"}, 2, {0}),
        ({"boxes_per_image": 9, "boxes": "all"}, 6, {0, 1, 2, 5}),
    ],
)
def test_boxes_are_drawn_from_the_asked_kind(options: dict[str, Any], count: int, allowed: set[int]) -> None:
    labels = torch.tensor([0, 5, -1, 1, 2, 0, 5])
    drawn = draw_boxes(labels, MimicOptions(**options))
    assert len(drawn) == count
    assert set(labels[drawn].tolist()) <= allowed
    assert len(drawn.unique()) == min(count, int(sum(label in allowed for label in labels.tolist())))
    assert draw_boxes(torch.tensor([0, -1]), MimicOptions(too_few="repeat")).tolist() == []


def test_drawing_is_random() -> None:
    drawn = {tuple(draw_boxes(torch.ones(9), MimicOptions(boxes_per_image=2)).tolist()) for _ in range(60)}
    assert len(drawn) > 20
    assert {place for pair in drawn for place in pair} == set(range(9))


def test_a_crop_covers_exactly_its_box() -> None:
    y, x = torch.meshgrid(torch.arange(70.0), torch.arange(90.0), indexing="ij")
    images = torch.stack([torch.zeros(3, 70, 90), torch.stack([x, y, x + 2 * y])])  # a ramp is sampled without error
    rois = torch.tensor([[1.0, 10.5, 20.0, 74.5, 36.0], [1.0, 3.0, 1.0, 35.0, 65.0]])
    crops = crop_boxes(images, rois, MimicOptions(crop_size=64))
    for crop, (x1, y1, x2, y2) in zip(crops, rois[:, 1:].tolist(), strict=True):
        across = x1 + (torch.arange(64) + 0.5) * (x2 - x1) / 64 - 0.5
        down = y1 + (torch.arange(64) + 0.5) * (y2 - y1) / 64 - 0.5
        torch.testing.assert_close(crop[0], across.expand(64, 64))
        torch.testing.assert_close(crop[1], down[:, None].expand(64, 64))
        torch.testing.assert_close(crop[2], across + 2 * down[:, None])


def test_crops_agree_with_resizing() -> None:
    image = torch.rand(1, 3, 150, 230)
    roi = torch.tensor([[0.0, 20.0, 10.0, 212.0, 138.0]])
    cut = image[:, :, 10:138, 20:212]
    resized = functional.interpolate(cut, size=(64, 64), mode="bilinear", align_corners=False)
    ours = crop_boxes(image, roi, MimicOptions(crop_size=64))
    torch.testing.assert_close(ours, resized)
    # 128 rows and 192 columns to 64: each pixel of `area` averages what it covers, 2 x 3 pixels.
    shrunk = crop_boxes(image, roi, MimicOptions(crop_size=64, interpolation="area"))
    torch.testing.assert_close(shrunk, functional.avg_pool2d(cut, (2, 3)))


@pytest.mark.parametrize("feature", ["after_relu", "before_relu"])
@pytest.mark.parametrize("stop_gradient", [False, True])
def test_losses_and_gradients_are_those_of_the_parts_called_one_by_one(feature: str, stop_gradient: bool) -> None:
    options = MimicOptions(**GROUND_TRUTH_ONLY, feature=feature, stop_gradient=stop_gradient, weight=0.3)
    model = add_mimicking(_detector(), options)
    losses = _losses(model)
    teacher, student, after = _features_one_by_one(model, relu=feature == "after_relu")
    held = teacher.detach() if stop_gradient else teacher
    cosines = (held * student).sum(1) / (held.norm(dim=1) * student.norm(dim=1))
    expected = 0.3 * (1 - cosines).sum() / 2
    labels = torch.tensor([2, 1, 3])
    classes = 0.1 * functional.nll_loss(model.mimic.classifier(after).log_softmax(1), labels)
    torch.testing.assert_close(losses["loss_mimic"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses["loss_mimic_classifier"], classes, rtol=1e-4, atol=1e-6)
    shared = [model.backbone.body.conv1.weight, model.roi_heads.box_head.fc6.weight]
    for ours, by_hand in ((losses["loss_mimic"], expected), (losses["loss_mimic_classifier"], classes)):
        gradients = zip(
            torch.autograd.grad(ours, shared, retain_graph=True),
            torch.autograd.grad(by_hand, shared, retain_graph=True),
            strict=True,
        )
        for gradient, wanted in gradients:
            assert wanted.abs().max() > 0
            torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


def _called_with_its_parameters(model: FasterRCNN) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Backbone, RoI pooling and box head without hooks: a copy's code, called with the parameters of `model`."""

    def called(part: nn.Module) -> Any:
        twin = copy.deepcopy(part)
        for module in twin.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        return lambda *args: torch.func.functional_call(twin, dict(part.named_parameters()), args)

    heads = model.roi_heads
    return called(model.backbone), called(heads.box_roi_pool), called(heads.box_head)


@pytest.mark.parametrize("stop_gradient", [False, True])
def test_gradients_of_offset_branches_and_trained_norms_are_those_of_a_plain_implementation(
    stop_gradient: bool,
) -> None:
    options = MimicOptions(**GROUND_TRUTH_ONLY, stop_gradient=stop_gradient)
    plain = _detector("batch", deform=r"fpn\.layer_blocks", roi_pool="modulated")
    model = add_mimicking(plain, options)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.02)  # offset branches start at zero, where some gradients would be too
    backbone, pool, head = _called_with_its_parameters(model.train())
    losses = _losses(model)

    images, targets = model.transform(IMAGES, TARGETS)
    boxes = [target["boxes"] for target in targets]
    rois = [(number, box) for number, part in enumerate(boxes) for box in part]
    crops = torch.cat([_resampled(images.tensors[number], box) for number, box in rois])
    student = head(pool(backbone(images.tensors), boxes, images.image_sizes))
    whole = [torch.tensor([[0.0, 0.0, 64.0, 64.0]])] * len(crops)
    teacher = head(pool(backbone(crops), whole, [(64, 64)] * len(crops)))
    held = teacher.detach() if stop_gradient else teacher
    cosines = (held * student).sum(1) / (held.pow(2).sum(1) * student.pow(2).sum(1)).sqrt()
    expected = 0.1 * (1 - cosines).sum() / 2
    torch.testing.assert_close(losses["loss_mimic"], expected, rtol=1e-4, atol=1e-6)

    shared = {
        n: p for n, p in model.named_parameters() if p.requires_grad and n.startswith(("backbone", "roi_heads.box_"))
    }
    ours = torch.autograd.grad(losses["loss_mimic"], list(shared.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(shared.values()), allow_unused=True)
    compared = set()
    for name, gradient, by_hand in zip(shared, ours, wanted, strict=True):
        assert (gradient is None) == (by_hand is None), name
        if by_hand is not None and by_hand.abs().max() > 1e-7:
            compared.add(name)
            torch.testing.assert_close(gradient, by_hand, rtol=2e-3, atol=2e-3 * by_hand.abs().max().item(), msg=name)
    for part in ("backbone.body.bn1", "offset", "roi_heads.box_roi_pool", "roi_heads.box_head.fc7"):
        assert any(part in name for name in compared), (part, sorted(compared))


def _resampled(image: Tensor, box: Tensor) -> Tensor:
    """Return the box of one image as (1, 3, 64, 64), by `grid_sample`: each pixel of the crop from its centre."""
    x1, y1, x2, y2 = box.tolist()
    steps = (torch.arange(64) + 0.5) / 64
    x, y = x1 + steps * (x2 - x1), y1 + steps * (y2 - y1)
    height, width = image.shape[1:]
    grid = torch.stack(torch.meshgrid(2 * x / width - 1, 2 * y / height - 1, indexing="xy"), dim=-1)
    return functional.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)


def test_chunks_give_the_same_losses_and_gradients() -> None:
    results = []
    for chunk in (None, 2):
        model = add_mimicking(_detector(), MimicOptions(crop_size=64, chunk=chunk, boxes_per_image=4))
        losses = _losses(model)
        (losses["loss_mimic"] + losses["loss_mimic_classifier"]).backward()
        results.append((losses, model.backbone.body.conv1.weight.grad))
    assert torch.allclose(results[0][0]["loss_mimic"], results[1][0]["loss_mimic"], rtol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_predictions_are_the_same_bits_with_and_without() -> None:
    options = {"score_threshold": 0.0, "proposals": 40}
    plain, taught = _detector(**options).eval(), add_mimicking(_detector(**options)).eval()
    expected = plain(IMAGES)
    assert len(expected[0]["boxes"]) > 10
    dropped = drop_mimicking(copy.deepcopy(taught))
    for model in (taught, dropped):
        for ours, theirs in zip(model(IMAGES), expected, strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert set(taught.state_dict()) - set(plain.state_dict()) == {"mimic.classifier.weight", "mimic.classifier.bias"}
    assert set(dropped.state_dict()) == set(plain.state_dict())
    assert drop_mimicking(plain) is plain
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dropped.modules())
    assert "loss_mimic" in _losses(taught)  # the copy was another detector
    assert "loss_mimic" not in _losses(dropped)


def test_the_detectors_own_losses_and_statistics_are_left_alone() -> None:
    plain, taught = _detector("batch"), add_mimicking(_detector("batch"), MimicOptions(crop_size=64))
    theirs, ours = _losses(plain), _losses(taught)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for key, value in plain.state_dict().items():
        assert torch.equal(taught.state_dict()[key], value), key
    norm = taught.backbone.body.bn1
    assert isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats and norm.num_batches_tracked == 1


def test_a_batch_without_boxes_costs_nothing_and_reaches_the_classifier() -> None:
    model = add_mimicking(_detector()).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model(IMAGES[:1], [empty])
    assert losses["loss_mimic"].item() == losses["loss_mimic_classifier"].item() == 0
    torch.stack(list(losses.values())).sum().backward()
    # With several processes every parameter must take part in every step.
    assert model.mimic.classifier.weight.grad is not None


def test_mask_rcnn_and_its_long_box_head() -> None:
    torch.manual_seed(0)
    backbone = pyramid_backbone(Trunk("resnet18", norm="frozen"), out_channels=8)
    head = FastRCNNConvFCHead((8, 7, 7), [8], [12], norm_layer=nn.BatchNorm2d)  # ends in an in-place ReLU
    parts = {
        "box_head": head,
        "box_predictor": FastRCNNPredictor(12, 4),
        "mask_predictor": MaskRCNNPredictor(256, 8, 4),
    }
    model = MaskRCNN(backbone, min_size=96, **parts)
    add_mimicking(model, MimicOptions(crop_size=64, feature="before_relu")).train()
    masks = [torch.ones(len(target["boxes"]), *image.shape[1:]) for image, target in zip(IMAGES, TARGETS, strict=True)]
    losses = model(IMAGES, [{**target, "masks": mask} for target, mask in zip(TARGETS, masks, strict=True)])
    assert {"loss_mask", "loss_mimic", "loss_mimic_classifier"} <= set(losses)
    torch.stack(list(losses.values())).sum().backward()
    assert losses["loss_mimic"] > 0


@pytest.mark.parametrize("roi_pool", ["align", "modulated"])
@pytest.mark.parametrize("ohem", [None, 6])
def test_the_papers_faster_rcnn_pools_the_whole_crop_from_the_map_of_stride_16(roi_pool: str, ohem: int | None) -> None:
    backbone = dilated_backbone(Trunk("resnet18", deform="c5", norm="frozen"), reduction_channels=8)
    model = build(faster_rcnn_dc5, 4, backbone, roi_pool=roi_pool, head_channels=12, min_size=96, ohem=ohem)
    add_mimicking(model, MimicOptions(crop_size=64, boxes_per_image=3)).train()
    pooled = []
    model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, args: pooled.append(args))
    losses = model(IMAGES, TARGETS)
    assert losses["loss_mimic"] > 0
    torch.stack(list(losses.values())).sum().backward()
    assert model.mimic.classifier.weight.grad.abs().sum() > 0
    maps, boxes, sizes = pooled[-1]
    assert maps["c5"].shape[1:] == (8, 4, 4)
    assert len(boxes) == len(sizes) == len(maps["c5"]) <= 6
    assert all(box.tolist() == [[0, 0, 64, 64]] for box in boxes)


def test_a_few_steps_of_training_bring_the_features_together() -> None:
    options = MimicOptions(**GROUND_TRUTH_ONLY, feature="before_relu", stop_gradient=True)
    model = add_mimicking(_detector(head_channels=64), options)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    history = []
    for _ in range(10):
        losses = _losses(model)
        (10 * losses["loss_mimic"] + 10 * losses["loss_mimic_classifier"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({key: value.item() for key, value in losses.items()})
    assert history[0]["loss_mimic_classifier"] == pytest.approx(0.1 * math.log(4), rel=0.4)
    for key in ("loss_mimic", "loss_mimic_classifier"):
        assert history[-1][key] < 0.5 * history[0][key], key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"boxes": "forground"},
            r"mimic boxes: must be one of its choices; got 'forground'; .* Did you mean 'foreground'",
        ),
        ({"iou": 0.0}, "mimic iou: must be above 0 and at most 1; got 0.0; use 0.5"),
        ({"weight": math.nan}, "mimic weight: must be 0 or more; got nan; the paper has 0.1"),
        ({"crop_size": 220}, "mimic crop_size: must be a multiple of 32 pixels, 64 at least; got 220; use 224"),
        ({"crop_size": 32}, "mimic crop_size: must be a multiple of 32 pixels, 64 at least; got 32; use 224"),
        ({"chunk": 0}, "mimic chunk: must be at least 1; got 0; use e.g. 32"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PliantError, match=message):
        MimicOptions(**options)


def test_the_classifier_is_where_the_detector_is() -> None:
    with torch.device("meta"):
        model = _detector().double()
    weight = add_mimicking(model).mimic.classifier.weight
    assert (weight.device.type, weight.dtype) == ("meta", torch.float64)


def test_refused_detectors() -> None:
    model = add_mimicking(_detector())
    with pytest.raises(PliantError, match="mimic: must not be there already; got a detector with it; drop_mimicking"):
        add_mimicking(model)
    model = rfcn(4, dilated_backbone("resnet18", reduction_channels=16))
    with pytest.raises(PliantError, match="mimic: needs a detector whose box head has fully connected layers .*; got"):
        add_mimicking(model)
