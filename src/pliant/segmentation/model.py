# SPDX-License-Identifier: Apache-2.0
"""DeepLab as the v1 paper has it: a trunk at stride 16, two 1x1 convolutions, and scores upsampled to pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pliant._check import counted, fail
from pliant._labels import IGNORE
from pliant.backbones import Trunk, as_trunk, build_trunk, pixel_statistics
from pliant.nn import DeformConv2d

OffsetDilation = Literal["official", "paper"]
HEAD_CHANNELS = 1024

# Scores of all classes that are held at once when they are taken to the size of the image: 64 MB.
_STRIP_VALUES = 2**24

# The official code's initialisation of the two new layers.
_INIT_STD = 0.01


class DeepLab(nn.Module):
    """Semantic segmentation by a trunk, `fc6` (1x1, ReLU), `score` (1x1), and upsampling by the trunk's stride.

    In training form `model(images, targets)` is a dictionary with `loss_seg`, the mean cross-entropy over all pixels
    of the batch that have a label. In evaluation form `model(images)` is a list of `labels` (H, W) uint8 and `scores`
    (H, W), the softmax of the label, at each image's own size. Images are (3, H, W) floats in 0..1 of any size;
    targets hold `labels_map` (H, W), 0..C-1 or 255. Resizing, normalising and batching happen inside.

    Args:
        backbone: images (N, 3, H, W) to a dict with one map, (N, channels, H / stride, W / stride).
        channels: of that map.
        num_classes: C, the background included.
        transform: torchvision's, which resizes, normalises and pads images to a batch.
        stride: pixels of the resized image per cell.
        head_channels: channels of `fc6`.

    Raises:
        ValueError: `num_classes` is not from 2 to 255.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        transform: GeneralizedRCNNTransform,
        *,
        stride: int = 16,
        head_channels: int = HEAD_CHANNELS,
    ) -> None:
        super().__init__()
        if not 2 <= num_classes <= IGNORE:
            fail("num_classes", f"must be from 2 to {IGNORE}, the background included", num_classes, "use 21 for VOC")
        self.transform = transform
        self.backbone = backbone
        self.fc6 = nn.Conv2d(channels, head_channels, 1)
        self.score = nn.Conv2d(head_channels, num_classes, 1)
        self.stride = stride
        for layer in (self.fc6, self.score):
            nn.init.normal_(layer.weight, std=_INIT_STD)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def pixel_scores(self, images: Tensor) -> Tensor:
        """Return scores (N, C, H, W) before the softmax for normalised images (N, 3, H, W)."""
        (features,) = self.backbone(images).values()
        scores = self.score(self.fc6(features).relu())  # (N, C, H / stride, W / stride)
        return upsample_scores(scores, self.stride, (images.shape[-2], images.shape[-1]))

    def forward(
        self, images: list[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training form, the labels of each image in evaluation form."""
        batch, _ = self.transform(images)
        if self.training:
            labels = _batched_labels(images, targets, batch.image_sizes, batch.tensors)
            return {"loss_seg": pixel_loss(self.pixel_scores(batch.tensors), labels)}
        scores = self.pixel_scores(batch.tensors)
        outputs = []
        for image, own, (height, width) in zip(images, scores, batch.image_sizes, strict=True):
            outputs.append(_labelled(own[:, :height, :width], (image.shape[-2], image.shape[-1])))
        return outputs


def pixel_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the pixels that have a label; 0 if none has.

    Args:
        scores: (N, C, H, W) before the softmax; taken as float32.
        labels: (N, H, W) integers, 0..C-1, or 255, which is ignored.

    Example:
        >>> scores = torch.tensor([[[[0.0, 5.0]], [[0.0, -7.0]]]])
        >>> round(pixel_loss(scores, torch.tensor([[[1, 255]]])).item(), 4)  # -log(1/2)
        0.6931
    """
    total = cross_entropy(scores.float(), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def _batched_labels(
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]] | None,
    sizes: Sequence[tuple[int, int]],
    batch: Tensor,
) -> Tensor:
    """Resize each label map as its image was, by the nearest pixel, and pad it with `IGNORE`: (N, H, W) uint8."""
    if targets is None or len(targets) != len(images):
        got = "none" if targets is None else f"{len(targets)} for {counted(len(images), 'image')}"
        fail("targets", "must be one for each image in training form", got, "call model.eval() to predict")
    labels = torch.full((len(images), *batch.shape[-2:]), IGNORE, dtype=torch.uint8, device=batch.device)
    for row, (image, target, size) in enumerate(zip(images, targets, sizes, strict=True)):
        own = target["labels_map"]
        if own.shape != image.shape[-2:]:
            got = f"shape {tuple(own.shape)} for shape {tuple(image.shape[-2:])}"
            fail("labels_map", "must have the height and width of its image", got, "transform both together")
        resized = interpolate(own[None, None].to(torch.uint8), size=size, mode="nearest-exact")[0, 0]
        labels[row] = pad(resized, (0, labels.shape[-1] - size[1], 0, labels.shape[-2] - size[0]), value=IGNORE)
    return labels


def _labelled(scores: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Turn scores (C, h, w) of the resized image into labels and their softmax at the image's own `size`.

    A strip of rows at a time: the scores of all classes for all pixels of a large photograph are gigabytes.
    """
    height, width = map(int, size)  # tensors where an export traces
    rows = max(1, _STRIP_VALUES // (len(scores) * width))
    strips = [_strip(scores.float(), top, min(top + rows, height), (height, width)) for top in range(0, height, rows)]
    best, labels = zip(*(strip.softmax(0).max(0) for strip in strips), strict=True)
    return {"labels": torch.cat(labels).to(torch.uint8), "scores": torch.cat(best)}


def _strip(scores: Tensor, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Return rows `top` to `bottom` - 1 of scores (C, h, w) resized to `size`, bilinear, centres on centres."""
    cells = int(scores.shape[-2])
    places = (torch.arange(top, bottom, device=scores.device) + 0.5) * (cells / size[0]) - 0.5
    places = places.clamp(0, cells - 1)
    above = places.long()
    below = (above + 1).clamp(max=cells - 1)
    lines = torch.lerp(scores[:, above], scores[:, below], (places - above)[:, None])  # (C, bottom - top, w)
    return interpolate(lines[None], size=(bottom - top, size[1]), mode="bilinear", align_corners=False)[0]


class _OwnSize(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """The transform that leaves images at their own size."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the image as it is."""
        return image, target


def deeplab(
    num_classes: int,
    backbone: str | Trunk = "resnet101",
    *,
    offset_dilation: OffsetDilation = "official",
    output_stride: int = 16,
    dilation: int | None = None,
    head_channels: int = HEAD_CHANNELS,
    bias_lr_scale: float = 1.0,
    min_size: int | Sequence[int] | None = 360,
    max_size: int = 600,
) -> DeepLab:
    """Return DeepLab, in training form, as the v1 paper and its official code have it.

    The last stage of the trunk runs at stride 16 with dilation 2; the paper's deformable layers are its three 3x3
    convolutions (`deform="c5"`), without modulation and with one offset group.

    Args:
        num_classes: C, classes with the background: labels are 0..C-1. VOC has 21, Cityscapes 19.
        backbone: a `pliant.backbones.Trunk`, or the name of its network; a regular expression of its `deform` is over
            the names of the whole model.
        offset_dilation: `official` undilates the offset branch of dilated layers, as the code that the published
            models were trained with does; `paper` gives it the dilation of its layer, as the paper writes.
        output_stride: pixels of the resized image per cell of the scores.
        dilation: of conv5's convolutions larger than 1x1; None: what the stride asks for, 2 at 16.
        head_channels: channels of `fc6`.
        bias_lr_scale: factor on the learning rate of the biases of `fc6`, `score` and the offset branches, for
            `pliant.param_groups`; 2 in the official code.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in evaluation); None leaves them at their own size, for training on crops.
        max_size: limit of the long side in pixels; not read where `min_size` is None.

    Raises:
        PliantError: an argument out of its range, or a checkpoint which does not fit.

    Example:
        >>> model = deeplab(5, Trunk("resnet18", deform="c5"), min_size=64).eval()
        >>> output = model([torch.rand(3, 50, 70)])[0]
        >>> tuple(output["labels"].shape), tuple(output["scores"].shape)
        ((50, 70), (50, 70))

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), sections 2.3, 3.2 and 4.1.
    """
    if offset_dilation not in get_args(OffsetDilation):
        fix = "use 'official', unless weights were trained otherwise"
        fail("offset_dilation", "must be 'official' or 'paper'", repr(offset_dilation), fix)
    trunk = as_trunk(backbone)
    built = build_trunk(trunk, output_stride=output_stride, dilation=dilation)
    mean, std = (list(values) for values in pixel_statistics(built.network))
    if min_size is None:
        transform: GeneralizedRCNNTransform = _OwnSize(output_stride, max_size, mean, std, output_stride)
    else:
        sizes = [min_size] if isinstance(min_size, int) else list(min_size)
        transform = GeneralizedRCNNTransform(sizes, max_size, mean, std, output_stride)
    body, channels = built.body([output_stride]), built.channels[-1]
    model = DeepLab(body, channels, num_classes, transform, stride=output_stride, head_channels=head_channels)
    trunk.convert_by_name(model)
    if offset_dilation == "official":
        undilate_offset_branches(model)
    branches = (module.conv_offset for module in model.modules() if isinstance(module, DeformConv2d))
    for layer in (model.fc6, model.score, *branches):
        layer.bias_lr_scale = float(bias_lr_scale)  # type: ignore[assignment]
    return model


def undilate_offset_branches(network: nn.Module) -> int:
    """Give the offset branch of each dilated deformable convolution dilation 1, centred on the same positions.

    The paper's offset branch has "the same spatial resolution and dilation" as its layer. The official DeepLab's
    does not: beside a 3x3 convolution of padding 2 and dilation 2 stands one of padding 1 and dilation 1.
    Shapes, names and the output of an untrained branch, zero, are the same; trained weights fit one of the two.

    Args:
        network: any module; changed in place.

    Returns:
        How many layers were changed.

    Raises:
        PliantError: a layer whose padding cannot be centred, e.g. of an even kernel.

    Example:
        >>> layer = DeformConv2d(8, 8, 3, padding=2, dilation=2)
        >>> undilate_offset_branches(layer), layer.conv_offset.padding, layer.conv_offset.dilation
        (1, (1, 1), (1, 1))
    """
    layers = [m for m in network.modules() if isinstance(m, DeformConv2d) and m.conv_offset.dilation != (1, 1)]
    for layer in layers:
        padding = _centred_padding(layer)
        layer.conv_offset.padding, layer.conv_offset.dilation = padding, (1, 1)
    return len(layers)


def _centred_padding(layer: DeformConv2d) -> tuple[int, int]:
    """The padding that keeps size and centre of the output when the dilation goes to 1."""
    geometry = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    reach = [(p, (d - 1) * (k - 1)) for k, d, p in geometry]
    if any(shrink % 2 or 2 * p < shrink for p, shrink in reach):
        rule = "must be 'paper' for layers whose offsets cannot be centred without dilation"
        got = f"kernel {layer.kernel_size}, dilation {layer.dilation}, padding {layer.padding}"
        fix = "use offset_dilation='paper'"
        fail("offset_dilation", rule, got, fix)
    (top, high), (left, wide) = reach
    return (top - high // 2, left - wide // 2)


def upsample_scores(scores: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    r"""Upsample scores by `stride` exactly as the official DeepLab's fixed deconvolution and crop do.

    That is a deconvolution of each class by itself with the bilinear kernel of 2s x 2s taps and stride s, of whose
    output the window from (s/2, s/2) on is kept. The centre of cell i so lies at pixel :math:`s i + (s - 1) / 2`, and

    .. math:: y(p) = \sum_i x(i) \cdot g\!\left(\frac{p - s i - (s - 1) / 2}{s}\right), \quad g(t) = \max(0, 1 - |t|)

    on each axis. Between the centres of cells this is bilinear interpolation with `align_corners=False`. In the s/2
    pixels along the border, where there is no cell beyond, all scores fade towards zero alike: labels are the same as
    with a repeated border, and the softmax is softer. It is computed as the interpolation of the map with a border of
    zeros, which needs neither a 2s x 2s kernel nor parameters.

    Args:
        scores: (N, C, h, w), a cell for each `stride` x `stride` pixels.
        stride: s, pixels per cell.
        size: (H, W) of the image; at most (s h, s w).

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: `size` is larger than the cells cover.

    Example:
        >>> upsample_scores(torch.tensor([[[[1.0, 3.0]]]]), stride=2, size=(1, 4)).tolist()
        [[[[0.5625, 1.125, 1.875, 1.6875]]]]
    """
    height, width = (stride * cells for cells in scores.shape[-2:])
    if size[0] > height or size[1] > width:
        fail("size", f"must be at most ({height}, {width}), what the cells cover", size, "pad the image to whole cells")
    bordered = pad(scores, (1, 1, 1, 1))
    upsampled: Tensor = interpolate(bordered, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return upsampled[..., stride : stride + size[0], stride : stride + size[1]]
