# SPDX-License-Identifier: Apache-2.0
"""Classifiers: parameters, the start as the plain network, what is cut out of an image, losses, and the last layer."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torchvision.transforms.v2.functional import center_crop

from pliant._check import PliantError
from pliant.backbones import Trunk, classification_network, pixel_statistics
from pliant.classification import Classifier, classifier, replace_head
from pliant.nn import DeformConv2d


class Means(nn.Module):
    """Scores are ten times the mean of red, green, blue, before normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        mean, std = (torch.tensor(values)[:, None, None] for values in pixel_statistics(self))
        return 10 * (images * std + mean).mean((2, 3))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _branches(stages: dict[int, int], taps: int) -> int:
    """Parameters of the offset branches: {channels: layers}, `taps` output channels each."""
    return sum(layers * (channels * 9 + 1) * taps for channels, layers in stages.items())


@pytest.mark.parametrize(
    ("name", "where", "modulated", "plain", "stages"),
    [
        ("resnet50", "c3-c5", True, 25_557_032, {128: 4, 256: 6, 512: 3}),
        ("resnet50", "c5", False, 25_557_032, {512: 3}),
        ("resnet101", "c3-c5", True, 44_549_160, {128: 4, 256: 23, 512: 3}),
        ("resnext101", "c5", False, 88_791_336, {2048: 3}),
        ("timm:resnext101_32x4d", "c3-c5", True, 44_177_704, {256: 4, 512: 23, 1024: 3}),
    ],
)
def test_parameters(name: str, where: str, modulated: bool, plain: int, stages: dict[int, int]) -> None:
    with torch.device("meta"):  # shapes alone
        model = classifier(1000, Trunk(name, deform=where, modulated=modulated))
    layers = [m for m in model.modules() if isinstance(m, DeformConv2d)]
    assert len(layers) == sum(stages.values())
    assert {layer.conv_offset.out_channels for layer in layers} == {27 if modulated else 18}
    assert _count(model) == plain + _branches(stages, 27 if modulated else 18)


def test_dcnv2_adds_871_thousand_parameters_to_resnet50() -> None:
    assert _branches({128: 4, 256: 6, 512: 3}, 27) == 871_263
    assert _branches({512: 3}, 18) == 248_886


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "timm:resnet18"])
def test_it_starts_as_the_plain_network(name: str) -> None:
    torch.manual_seed(1)
    plain = classifier(7, name, resize_size=72, crop_size=64).eval()
    torch.manual_seed(1)
    converted = classifier(7, Trunk(name, deform="c4-c5"), resize_size=72, crop_size=64)
    missing = converted.load_state_dict(plain.state_dict(), strict=False)
    assert all(".conv_offset." in key for key in missing.missing_keys)
    assert missing.missing_keys
    images = torch.randn(2, 3, 64, 64)
    got = converted.eval().backbone(images)
    torch.testing.assert_close(got, plain.backbone(images), rtol=1e-3, atol=1e-4)


def test_tests_see_the_middle_of_the_resized_image() -> None:
    # 40 x 80 becomes 20 x 40, of which the middle 10 x 10 is 20 x 20 pixels of the original: those are green.
    image = torch.zeros(3, 40, 80)
    image[0] = 1.0
    image[:, 10:30, 30:50] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    model = Classifier(Means(), resize_size=20, crop_size=10).eval()
    (output,) = model([image])
    assert tuple(model.backbone.seen[0].shape) == (1, 3, 10, 10)
    assert output["labels"].tolist() == [1, 0, 2]
    shares = torch.softmax(torch.tensor([0.0, 10.0, 0.0]), 0)
    assert output["scores"][0].item() == pytest.approx(shares[1].item(), abs=2e-3)
    wider = Classifier(Means(), resize_size=20, crop_size=20).eval()([image])[0]
    assert wider["labels"][0].item() == 0


def test_images_of_any_size_give_the_best_five_in_order() -> None:
    model = classifier(9, "resnet18", resize_size=36, crop_size=32).eval()
    outputs = model([torch.rand(3, 50, 41), torch.rand(3, 33, 90)])
    whole = model.backbone(model.normalised([torch.rand(3, 32, 32)])).shape
    assert whole == (1, 9)
    for output in outputs:
        assert (output["labels"].shape, output["scores"].shape) == ((5,), (5,))
        assert (output["scores"].diff() <= 0).all()
        assert len(output["labels"].unique()) == 5


def test_pixels_are_normalised_as_the_network_was_trained() -> None:
    image = torch.full((3, 8, 8), 0.5)
    plain = Classifier(Means(), resize_size=8, crop_size=8).normalised([image])[0, :, 0, 0]
    torch.testing.assert_close(plain, (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))
    network = classification_network("timm:resnet18")
    network.default_cfg = {"mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)}  # type: ignore[assignment]
    assert Classifier(network).normalised([image])[0, :, 0, 0].tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_by_hand(smoothing: float) -> None:
    model = Classifier(Means(), label_smoothing=smoothing).train()
    images = [torch.rand(3, 6, 6) for _ in range(4)]
    labels = [2, 0, 0, 1]
    loss = model(images, [{"label": torch.tensor(label)} for label in labels])
    logs = log_softmax(torch.stack([10 * image.mean((1, 2)) for image in images]), 1)
    expected = 0.0
    for row, label in zip(logs, labels, strict=True):
        weights = [smoothing / 3 + (1 - smoothing) * (k == label) for k in range(3)]
        expected -= sum(w * v for w, v in zip(weights, row.tolist(), strict=True)) / 4
    assert list(loss) == ["loss_class"]
    assert loss["loss_class"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "vgg11", "timm:resnet10t"])
def test_the_last_layer_is_replaced_and_nothing_else(name: str) -> None:
    with torch.device("meta"):
        network = classification_network(name)
        before = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        replace_head(network, 7)
    after = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    changed = {key for key in before if before[key] != after[key]}
    assert before.keys() == after.keys()
    assert {after[key][0] for key in changed} == {7}
    assert 1 <= len(changed) <= 2


def test_a_last_layer_that_fits_keeps_its_weights() -> None:
    network = torchvision.models.resnet18(num_classes=7)
    weight = network.fc.weight
    assert replace_head(network, 7).fc.weight is weight  # type: ignore[union-attr]
    timm = classification_network("timm:resnet18")
    weight = copy.deepcopy(timm.fc.weight)  # type: ignore[union-attr]
    assert torch.equal(replace_head(timm, 1000).fc.weight, weight)  # type: ignore[union-attr]


def test_checkpoints_bring_their_last_layer_where_it_fits(tmp_path: object) -> None:
    path = f"{tmp_path}/weights.pth"
    given = torchvision.models.resnet18()
    torch.save(given.state_dict(), path)
    assert torch.equal(classifier(1000, Trunk("resnet18", weights=path)).backbone.fc.weight, given.fc.weight)  # type: ignore[union-attr]
    model = classifier(5, Trunk("resnet18", weights=path, frozen_stages=2, norm="frozen"))
    assert torch.equal(model.backbone.layer3[0].conv1.weight, given.layer3[0].conv1.weight)  # type: ignore[index, union-attr]
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4", "fc"}


@pytest.mark.parametrize("beyond", [(0, 1), (2, 3), (4, 5), (6, 7)])
def test_the_middle_is_that_of_torchvision(beyond: tuple[int, int]) -> None:
    network = Means()
    model = Classifier(network, resize_size=8 + beyond[0], crop_size=8).eval()
    image = torch.rand(3, 8 + beyond[0], 9 + beyond[1])  # not resized
    model([image])
    mean, std = (torch.tensor(values)[:, None, None] for values in pixel_statistics(network))
    torch.testing.assert_close(network.seen[0][0] * std + mean, center_crop(image, [8, 8]))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(PliantError, match="must name a classification network .* got 'resnet51'.* Did you mean"):
        classifier(5, "resnet51")
    with pytest.raises(PliantError, match="crop_size: must be from 1 to resize_size; got a crop of 224 from 128"):
        classifier(5, "resnet18", resize_size=128)
    with pytest.raises(PliantError, match=r"label_smoothing: must be in \[0, 1\); got 1"):
        classifier(5, "resnet18", label_smoothing=1.0)
    with pytest.raises(PliantError, match="num_classes: must be at least 1"):
        classifier(0, "resnet18")
    with pytest.raises(PliantError, match="must end in a linear layer or a 1x1 convolution; got Sequential"):
        replace_head(nn.Sequential(nn.Conv2d(3, 8, 3)), 4)
    model = Classifier(Means()).train()
    with pytest.raises(ValueError, match=r"all be of one size in training form; got \[\(6, 6\), \(6, 7\)\]"):
        model([torch.rand(3, 6, 6), torch.rand(3, 6, 7)], [{"label": torch.tensor(0)}] * 2)
    with pytest.raises(ValueError, match="targets: must be one for each image in training form; got none"):
        model([torch.rand(3, 6, 6)])
    with pytest.raises(
        PliantError, match=r"two or more for batch norm over maps of one cell; got one image of shape \(3, 32, 32\)"
    ):
        classifier(5, "resnet18").train()([torch.rand(3, 32, 32)], [{"label": torch.tensor(0)}])
