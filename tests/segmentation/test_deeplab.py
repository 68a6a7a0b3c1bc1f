# SPDX-License-Identifier: Apache-2.0
"""DeepLab: its layers and parameters, where its labels lie, its loss, and the official offset branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, log_softmax
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pliant import param_groups
from pliant._check import PliantError
from pliant.backbones import Trunk
from pliant.nn import DeformConv2d
from pliant.segmentation import DeepLab, deeplab, upsample_scores
from pliant.segmentation.model import pixel_loss

STRIDE = 16


class Means(nn.Module):
    """A trunk whose features are the mean colour of each 16 x 16 pixels."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": avg_pool2d(images, STRIDE)}


def of_colours(min_size: int = 16) -> DeepLab:
    """A segmenter without learning: label 0, 1, 2 where red, green, blue is the strongest."""
    transform = GeneralizedRCNNTransform([min_size], 1000, [0.0] * 3, [1.0] * 3, STRIDE)
    model = DeepLab(Means(), 3, 3, transform, stride=STRIDE, head_channels=3)
    with torch.no_grad():
        for layer in (model.fc6, model.score):
            layer.weight.copy_(torch.eye(3)[:, :, None, None])
    return model


def striped(height: int, *widths: int) -> Tensor:
    """Stripes of red, green, blue from left to right."""
    stripes = [torch.eye(3)[k][:, None, None].expand(3, height, width) for k, width in enumerate(widths)]
    return torch.cat(stripes, 2).contiguous()


def test_labels_lie_on_the_pixels_that_they_are_for() -> None:
    (output,) = of_colours().eval()([striped(16, 32, 48, 16)])
    expected = torch.cat([torch.full((16, width), label) for label, width in enumerate((32, 48, 16))], 1)
    assert output["labels"].dtype == torch.uint8
    assert torch.equal(output["labels"].long(), expected)
    # In the middle of a stripe the scores are 1, 0, 0: the softmax of the best is e / (e + 2).
    assert output["scores"][7, 56].item() == pytest.approx(torch.e / (torch.e + 2), abs=0.02)


def test_labels_come_back_at_each_images_own_size() -> None:
    images = [striped(16, 32, 32, 32), striped(20, 40, 40, 40), striped(24, 24, 24, 0)]
    outputs = of_colours(min_size=32).eval()(images)
    assert [tuple(output["labels"].shape) for output in outputs] == [(16, 96), (20, 120), (24, 48)]
    # 16 and 20 pixels become 32, so that the stripes end between cells and the labels change exactly there.
    for output, width in zip(outputs[:2], (32, 40), strict=True):
        changes = output["labels"].diff(dim=1).nonzero()[:, 1].unique().tolist()
        assert changes == [width - 1, 2 * width - 1]


def test_padding_to_whole_cells_moves_no_label() -> None:
    # 56 x 40 pixels are padded to 64 x 48; the stripes go from top to bottom and end between cells.
    image = striped(40, 16, 16, 24).transpose(1, 2).contiguous()
    (output,) = of_colours(min_size=40).eval()([image])
    expected = torch.cat([torch.full((height, 40), label) for label, height in enumerate((16, 16, 24))])
    assert torch.equal(output["labels"].long(), expected)


@pytest.mark.parametrize("size", [(23, 31), (4, 3), (5, 40)])
@pytest.mark.parametrize("values", [1, 3 * 31 * 4, 2**24])  # rows one by one, four by four, all at once
def test_strips_of_a_photograph_are_labelled_as_the_whole(
    size: tuple[int, int], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DeepLab.forward.__globals__, "_STRIP_VALUES", values)
    scores = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
    output = DeepLab.forward.__globals__["_labelled"](scores, size)
    whole = interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].softmax(0)
    torch.testing.assert_close(output["scores"], whole.max(0).values)
    assert torch.equal(output["labels"].long(), whole.argmax(0))


def test_scores_are_two_1x1_convolutions_with_a_relu_between() -> None:
    transform = GeneralizedRCNNTransform([32], 100, [0.0] * 3, [1.0] * 3, STRIDE)
    model = DeepLab(Means(), 3, 4, transform, stride=STRIDE, head_channels=6)
    for layer in (model.fc6, model.score):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    images = torch.rand(2, 3, 32, 48)
    hidden = torch.einsum("oc,nchw->nohw", model.fc6.weight[:, :, 0, 0], avg_pool2d(images, STRIDE))
    hidden = (hidden + model.fc6.bias[:, None, None]).clamp(min=0)
    scores = torch.einsum("oc,nchw->nohw", model.score.weight[:, :, 0, 0], hidden) + model.score.bias[:, None, None]
    assert (hidden == 0).any() and (hidden > 0).any()
    torch.testing.assert_close(model.pixel_scores(images), upsample_scores(scores, STRIDE, (32, 48)))


def test_a_batch_of_unequal_images_counts_each_labelled_pixel_once() -> None:
    model = of_colours().train()
    images = [torch.rand(3, 32, 48), torch.rand(3, 16, 64)]
    labels = [torch.randint(3, (32, 48)).to(torch.uint8), torch.randint(3, (16, 64)).to(torch.uint8)]
    labels[0][5:20, 7:] = 255
    targets = [{"labels_map": label} for label in labels]
    model.transform.min_size = (16,)
    model.transform.resize = lambda image, target: (image, target)
    together = model(images, targets)["loss_seg"]
    single = [model([image], [target])["loss_seg"] for image, target in zip(images, targets, strict=True)]
    counts = [float((label != 255).sum()) for label in labels]
    expected = sum(loss * count for loss, count in zip(single, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together, expected)


def test_label_maps_are_resized_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return scores.sum()

    monkeypatch.setitem(DeepLab.forward.__globals__, "pixel_loss", loss)
    labels = torch.randint(3, (16, 24)).to(torch.uint8)
    of_colours(min_size=32).train()([torch.rand(3, 16, 24)], [{"labels_map": labels}])
    assert torch.equal(seen[0][0], labels.repeat_interleave(2, 0).repeat_interleave(2, 1))
    # 48 x 72 to 16 x 24: each pixel's centre is that of the middle one of three by three.
    labels = torch.randint(3, (48, 72)).to(torch.uint8)
    of_colours(min_size=16).train()([torch.rand(3, 48, 72)], [{"labels_map": labels}])
    assert torch.equal(seen[1][0], torch.cat((labels[1::3, 1::3], torch.full((16, 8), 255)), 1))


def test_the_loss_by_hand_and_without_what_is_ignored() -> None:
    scores = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.randint(3, (2, 4, 5)).to(torch.uint8)
    labels[0, 1:3] = 255
    loss = pixel_loss(scores, labels)
    logs = log_softmax(scores.detach(), 1)
    picked = [-logs[n, int(labels[n, y, x]), y, x] for n in range(2) for y in range(4) for x in range(5)
              if labels[n, y, x] != 255]  # fmt: skip
    assert loss.item() == pytest.approx(float(sum(picked)) / 30, rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert (scores.grad[0, :, 1:3] == 0).all()
    assert (scores.grad[1].abs().sum(0) > 0).all()
    labels.fill_(255)
    labels[1, 3, 4] = 2
    assert pixel_loss(scores, labels).item() == pytest.approx(-float(logs[1, 2, 3, 4]), rel=1e-5)


def test_a_batch_without_labels_has_no_loss_and_finite_gradients() -> None:
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_loss(scores, torch.full((1, 2, 2), 255))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize("options", [{"modulated": True}, {"modulated": False, "offset_groups": 2}])
@pytest.mark.parametrize("offset_dilation", ["official", "paper"])
def test_it_starts_as_the_plain_network(options: dict[str, Any], offset_dilation: str) -> None:
    plain = deeplab(4, "resnet18", min_size=64).eval()
    converted = deeplab(
        4, Trunk("resnet18", deform="c4-c5", **options), min_size=64, offset_dilation=offset_dilation
    ).eval()
    missing = converted.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(".conv_offset." in key for key in missing.missing_keys)
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(converted.pixel_scores(images), plain.pixel_scores(images), rtol=1e-4, atol=1e-5)


def test_the_official_offset_branch_is_undilated_and_the_papers_is_not() -> None:
    branches = {}
    for kind in ("official", "paper"):
        model = deeplab(4, Trunk("resnet18", deform="c5", modulated=False), offset_dilation=kind)
        layer = model.backbone.get_submodule("layer4.1.conv2")
        assert isinstance(layer, DeformConv2d)
        assert (layer.dilation, layer.padding, layer.stride) == ((2, 2), (2, 2), (1, 1))
        branches[kind] = layer.conv_offset
    assert (branches["official"].dilation, branches["official"].padding) == ((1, 1), (1, 1))
    assert (branches["paper"].dilation, branches["paper"].padding) == ((2, 2), (2, 2))
    features = torch.randn(1, 512, 5, 7)
    weight, bias = torch.randn(18, 512, 3, 3), torch.randn(18)
    for kind, dilation in (("official", 1), ("paper", 2)):
        branches[kind].load_state_dict({"weight": weight, "bias": bias})
        expected = conv2d(features, weight, bias, padding=dilation, dilation=dilation)
        torch.testing.assert_close(branches[kind](features), expected)


def test_the_papers_model_has_three_deformable_layers_and_these_parameters() -> None:
    # Shapes alone: the layers are made on no device.
    with torch.device("meta"):
        fc6, score = nn.Conv2d(2048, 1024, 1), nn.Conv2d(1024, 21, 1)
    plain, ours = deeplab(21, "resnet101"), deeplab(21, Trunk("resnet101", deform="c5", modulated=False))
    deformable = {name: layer for name, layer in ours.named_modules() if isinstance(layer, DeformConv2d)}
    assert list(deformable) == [f"backbone.layer4.{block}.conv2" for block in range(3)]
    for layer in deformable.values():
        assert (layer.dilation, layer.padding, layer.stride, layer.bias) == ((2, 2), (2, 2), (1, 1), None)
        assert (layer.conv_offset.out_channels, layer.conv_offset.dilation) == (18, (1, 1))
    trunk = 42_500_160  # ResNet-101 of torchvision, 44,549,160, without its 2,049,000 of fc
    assert _count(plain) == trunk + _count(fc6) + _count(score) == 44_619_861
    assert _count(ours) - _count(plain) == 3 * (512 * 9 * 18 + 18) == 248_886


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_without_min_size_images_keep_their_own() -> None:
    model = deeplab(4, "resnet18", min_size=None)
    batch, _ = model.transform([torch.rand(3, 40, 70)])
    assert batch.image_sizes == [(40, 70)]
    assert tuple(batch.tensors.shape) == (1, 3, 48, 80)


def test_a_regular_expression_reaches_the_whole_model() -> None:
    model = deeplab(4, Trunk("resnet18", deform=r"backbone\.layer3\.1\.conv1"))
    assert [n for n, m in model.named_modules() if isinstance(m, DeformConv2d)] == ["backbone.layer3.1.conv1"]


def test_biases_of_the_head_and_of_offset_branches_learn_at_the_official_codes_rate() -> None:
    model = deeplab(4, Trunk("resnet18", deform="last2"), bias_lr_scale=2.0)
    groups = param_groups(model, lr=0.01, weight_decay=0.0, offset_lr_scale=0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    seen = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    branch = "backbone.layer4.1.conv2.conv_offset"
    assert (seen["fc6.weight"], seen["fc6.bias"], seen["score.weight"], seen["score.bias"]) == (0.01, 0.02, 0.01, 0.02)
    assert (seen[f"{branch}.weight"], seen[f"{branch}.bias"]) == (0.005, 0.01)
    assert (seen["backbone.conv1.weight"], seen["backbone.bn1.bias"]) == (0.01, 0.01)
    plain = param_groups(deeplab(4, "resnet18"), lr=0.01, weight_decay=0.0)
    assert {group["lr"] for group in plain} == {0.01}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(PliantError, match="offset_dilation: must be 'official' or 'paper'; got 'offical'"):
        deeplab(4, "resnet18", offset_dilation="offical")
    with pytest.raises(ValueError, match="num_classes: must be from 2 to 255"):
        deeplab(256, "resnet18")
    model = of_colours().train()
    with pytest.raises(ValueError, match="targets: must be one for each image in training form; got none"):
        model([torch.rand(3, 16, 16)])
    with pytest.raises(ValueError, match=r"height and width of its image; got shape \(16, 17\) for shape \(16, 16\)"):
        model([torch.rand(3, 16, 16)], [{"labels_map": torch.zeros(16, 17)}])
