# SPDX-License-Identifier: Apache-2.0
"""A classification network in the form that training, evaluation and the command line work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2 import functional as F  # noqa: N812

from pliant._check import counted, fail
from pliant.backbones import Trunk, classification_network, pixel_statistics

TOP = 5


class Classifier(nn.Module):
    """A network of torchvision or timm, its losses in training form and its best labels in evaluation form.

    In training form `model(images, targets)` is a dictionary with `loss_class`, the mean cross-entropy. Images are
    (3, H, W) floats in 0..1, all of one size, as `pliant.data.classification_transforms` makes them; targets hold
    `label`, a scalar from 0 to C-1. In evaluation form `model(images)` takes images of any size, resizes the short
    side of each to `resize_size`, cuts `crop_size` x `crop_size` from the middle, and returns for each the best
    min(5, C) `labels` (k,), best first, and their softmax `scores` (k,).

    Args:
        network: the whole network, its last layer included: normalised images (N, 3, H, W) to (N, C); `backbone` here.
        resize_size: short side in pixels that images are resized to in evaluation form ...
        crop_size: ... and the side of the square cut from their middle.
        label_smoothing: share of each label's weight that is spread over all classes, 0 to 1.

    Raises:
        PliantError: a size or a share out of range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, *, resize_size: int = 256, crop_size: int = 224, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not 1 <= crop_size <= resize_size:
            got = f"a crop of {crop_size} from {resize_size}"
            fail("crop_size", "must be from 1 to resize_size", got, "use 224 of 256")
        if not 0 <= label_smoothing < 1:
            fail("label_smoothing", "must be in [0, 1)", label_smoothing, "use 0 or 0.1")
        self.backbone = network
        self.resize_size, self.crop_size = resize_size, crop_size
        self.label_smoothing = label_smoothing
        mean, std = pixel_statistics(network)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(
        self, images: list[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training form, the best labels of each image in evaluation form."""
        if self.training:
            scores = self._training_scores(self.normalised(images))  # (N, C)
            loss = cross_entropy(scores.float(), _labels(images, targets), label_smoothing=self.label_smoothing)
            return {"loss_class": loss}
        crops = [_middle(self.resized(image), self.crop_size) for image in images]
        shares = self.backbone(self.normalised(crops)).float().softmax(1)  # (N, C)
        best = shares.topk(min(TOP, shares.shape[1]))
        return [{"labels": labels, "scores": scores} for labels, scores in zip(best.indices, best.values, strict=True)]

    def _training_scores(self, batch: Tensor) -> Tensor:
        try:
            scores = self.backbone(batch)
        except ValueError as error:
            if len(batch) > 1:
                raise
            # Batch norm's, of maps that have shrunk to a cell.
            got = f"one image of shape {tuple(batch.shape[1:])} ({error})"
            fix = "use another batch_size, a larger crop_size, or norm='frozen'"
            fail("images", "must be two or more for batch norm over maps of one cell", got, fix)
        if not isinstance(scores, Tensor):
            rule = "must give scores alone in training form"
            fix = "choose a network without auxiliary outputs"
            fail("backbone", rule, type(scores).__name__, fix)
        return scores

    def normalised(self, images: Sequence[Tensor]) -> Tensor:
        """Return images of one size as a batch (N, 3, H, W) with the mean and spread of the network's weights."""
        sizes = {tuple(image.shape[-2:]) for image in images}
        if len(sizes) != 1:
            fix = "crop them with pliant.data.classification_transforms"
            fail("images", "must all be of one size in training form", sorted(sizes), fix)
        return (torch.stack(list(images)) - self.mean) / self.std

    def resized(self, image: Tensor) -> Tensor:
        """Return an image with `resize_size` pixels along its short side, (3, H, W) floats."""
        resized: Tensor = F.resize(image, [self.resize_size], antialias=True)
        return resized


def _middle(image: Tensor, size: int) -> Tensor:
    """Cut the square of `size` pixels from the middle, as torchvision's center_crop, which cannot be traced, does."""
    beyond = [side - size for side in image.shape[-2:]]
    top, left = (rest // 2 + rest // 2 % 2 * (rest % 2) for rest in beyond)  # half of it; halves to the even neighbour
    return image[..., top : top + size, left : left + size]


def _labels(images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None) -> Tensor:
    if targets is None or len(targets) != len(images):
        got = "none" if targets is None else f"{len(targets)} for {counted(len(images), 'image')}"
        fail("targets", "must be one for each image in training form", got, "call model.eval() to predict")
    return torch.stack([target["label"] for target in targets])


def classifier(
    num_classes: int,
    backbone: str | Trunk = "resnet50",
    *,
    resize_size: int = 256,
    crop_size: int = 224,
    label_smoothing: float = 0.0,
) -> Classifier:
    """Return a classification network, in training form, with deformable convolutions where asked.

    Args:
        num_classes: C. The last layer of the weights is kept if it has as many.
        backbone: a `pliant.backbones.Trunk`, or the name of its network, which may be any classification network of
            torchvision (`resnext101` is its 32x8d) or `timm:NAME` (`timm:resnext101_32x4d`, say). Batch norm is trained
            unless `norm` is `frozen`, and stages are frozen only where `frozen_stages` says so.
        resize_size: short side in pixels that images are resized to in evaluation ...
        crop_size: ... and the side of the square cut from their middle.
        label_smoothing: share of each label's weight that is spread over all classes, 0 to 1.

    Raises:
        PliantError: an argument out of its range, or a checkpoint which does not fit.

    Example:
        >>> import torch
        >>> model = classifier(10, Trunk("resnet18", deform="c5"), resize_size=40, crop_size=32).eval()
        >>> output = model([torch.rand(3, 50, 70)])[0]
        >>> tuple(output["labels"].shape), bool((output["scores"].diff() <= 0).all())
        ((5,), True)

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.
    """
    network = classification_network(backbone)
    replace_head(network, num_classes)
    return Classifier(network, resize_size=resize_size, crop_size=crop_size, label_smoothing=label_smoothing)


def replace_head(network: nn.Module, num_classes: int) -> nn.Module:
    """Give `network` a last layer for `num_classes`; it keeps its own, weights and all, if that fits already.

    timm's networks say how (`reset_classifier`); in others it is the linear layer, or the 1x1 convolution, that was
    registered last.

    Args:
        network: a classification network of torchvision or timm; changed in place.
        num_classes: C.

    Raises:
        PliantError: `num_classes` is below 1, or there is no such layer.

    Example:
        >>> import torchvision
        >>> replace_head(torchvision.models.resnet18(), 10).fc
        Linear(in_features=512, out_features=10, bias=True)
    """
    if num_classes < 1:
        fail("num_classes", "must be at least 1", num_classes, "give the number of classes")
    if hasattr(network, "reset_classifier"):
        if network.num_classes != num_classes:
            network.reset_classifier(num_classes)  # type: ignore[operator]
        return network
    heads = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    name, last = heads[-1] if heads else ("", None)
    if isinstance(last, nn.Linear) and last.out_features != num_classes:
        network.set_submodule(name, nn.Linear(last.in_features, num_classes, bias=last.bias is not None))
    elif isinstance(last, nn.Conv2d) and last.out_channels != num_classes:
        if last.kernel_size != (1, 1):
            _refuse(network)
        network.set_submodule(name, nn.Conv2d(last.in_channels, num_classes, 1, bias=last.bias is not None))
    elif last is None:
        _refuse(network)
    return network


def _refuse(network: nn.Module) -> None:
    rule = "must end in a linear layer or a 1x1 convolution"
    fail("backbone", rule, type(network).__name__, "choose a classification network")
