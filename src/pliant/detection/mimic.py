# SPDX-License-Identifier: Apache-2.0
"""R-CNN feature mimicking: a second branch on crops, there in training only (DCNv2, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from pliant._check import fail
from pliant.detection.mimic_parts import MimicOptions, crop_boxes, draw_boxes, match_boxes, mimic_loss

Detector = TypeVar("Detector", bound=GeneralizedRCNN)
Features = tuple[Tensor, Tensor]  # the second fc layer's output after and before its ReLU, (K, D) each
CHILD = "mimic"


def add_mimicking(model: Detector, options: MimicOptions | None = None) -> Detector:
    r"""Return the detector with the R-CNN branch of DCNv2, which teaches its box features in training.

    .. math:: L = L_{detector} + 0.1 \sum_{b \in \Omega} [1 - \cos(f_{RCNN}(b), f_{FRCNN}(b))] + 0.1 L_{cls}

    In training, up to 32 positive proposals of each image are cut out of it, resized to 224 x 224 and sent through the
    detector's own backbone, RoI pooling (with the whole crop as the region) and fully connected layers, which gives
    f_RCNN; a classifier of the branch's own labels it. `model(images, targets)` returns two more losses, weighted
    already: `loss_mimic` and `loss_mimic_classifier`. In evaluation the branch does nothing, and `drop_mimicking` takes
    it out. Nothing but `mimic.classifier.*` is added to the state dict.

    Args:
        model: a torchvision `FasterRCNN` or `MaskRCNN`, or a detector of its form, with fully connected layers in its
            `roi_heads.box_head`; changed in place.
        options: None for the defaults.

    Raises:
        PliantError: the detector has no fully connected box head, or has the branch already.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = add_mimicking(faster_rcnn(3, "resnet18", min_size=64, head_channels=16))
        >>> target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([2])}
        >>> [name for name in model([torch.rand(3, 64, 64)], [target]) if "mimic" in name]
        ['loss_mimic', 'loss_mimic_classifier']

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.3.
    """
    if hasattr(model, CHILD):
        fix = "drop_mimicking(model) first"
        fail("mimic", "must not be there already", "a detector with it", fix)
    model.add_module(CHILD, FeatureMimic(model, options or MimicOptions()))
    return model


def drop_mimicking(model: Detector) -> Detector:
    """Take the branch of `add_mimicking` out of `model`, in place; a detector without it is returned as it is.

    Example:
        >>> from pliant.detection import faster_rcnn
        >>> model = drop_mimicking(add_mimicking(faster_rcnn(3, "resnet18", head_channels=16)))
        >>> hasattr(model, "mimic")
        False
    """
    branch = getattr(model, CHILD, None)
    if isinstance(branch, FeatureMimic):
        branch.detach()
        delattr(model, CHILD)
    return model


def without_mimicking(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a detector without what `add_mimicking` added to it.

    Example:
        >>> list(without_mimicking({"rpn.head.bias": torch.zeros(3), "mimic.classifier.bias": torch.zeros(2)}))
        ['rpn.head.bias']
    """
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{CHILD}.")}


@dataclass
class _Step:
    """What one training step of the detector shows on its way."""

    backbone: nn.Module | None = None
    images: Tensor | None = None  # (N, 3, H, W)
    proposals: list[Tensor] | None = None
    features: Features | None = None


class FeatureMimic(nn.Module):
    """The branch: forward hooks on a detector's parts, and the R-CNN classifier.

    The hooks only look on, but for the one of `roi_heads`, which adds the two losses. They are on from the start of
    a training step to the end of `roi_heads`, so that the branch's own use of the parts is not seen.
    """

    def __init__(self, model: GeneralizedRCNN, options: MimicOptions) -> None:
        super().__init__()
        self.options = options
        heads = getattr(model, "roi_heads", None)
        layers = [m for m in getattr(heads, "box_head", nn.Identity()).modules() if isinstance(m, nn.Linear)]
        scores = getattr(getattr(heads, "box_predictor", None), "cls_score", None)
        if heads is None or not layers or not isinstance(scores, nn.Linear):
            rule = "needs a detector whose box head has fully connected layers and a classifier on them"
            fail("mimic", rule, type(model).__name__, "use Faster R-CNN or Mask R-CNN")
        self.classifier = nn.Linear(layers[-1].out_features, scores.out_features).to(scores.weight)
        self._step: _Step | None = None
        self._before_relu: Tensor | None = None
        self._handles = [
            model.register_forward_pre_hook(self._start),
            model.backbone.register_forward_pre_hook(self._see_images),
            heads.box_roi_pool.register_forward_pre_hook(self._see_proposals),
            layers[-1].register_forward_hook(self._see_last_layer),
            heads.box_head.register_forward_hook(self._see_features),
            heads.register_forward_hook(self._add_losses),
        ]

    def detach(self) -> None:
        """Take the hooks off the detector."""
        for handle in self._handles:
            handle.remove()

    def _start(self, model: nn.Module, args: object) -> None:
        self._step = _Step() if model.training else None

    def _see_images(self, backbone: nn.Module, args: tuple[Tensor]) -> None:
        if self._step is not None:
            self._step.backbone, self._step.images = backbone, args[0]

    def _see_proposals(self, pool: nn.Module, args: tuple[object, list[Tensor], object]) -> None:
        if self._step is not None:
            self._step.proposals = args[1]

    def _see_last_layer(self, layer: nn.Module, args: object, output: Tensor) -> None:
        if self.training:
            # Copied where the next module would overwrite it: torchvision's longer box heads end in an in-place ReLU.
            self._before_relu = output.clone() if self.options.feature == "before_relu" else output

    def _see_features(self, head: nn.Module, args: object, output: Tensor) -> None:
        if self._step is not None:
            self._step.features = (output, self._taken_before_relu())

    def _add_losses(self, heads: nn.Module, args: tuple[object, ...], output: tuple[object, dict[str, Tensor]]) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        targets = args[3]
        assert isinstance(targets, list)
        output[1].update(self.losses(heads, step, targets))

    def _taken_before_relu(self) -> Tensor:
        before, self._before_relu = self._before_relu, None
        assert before is not None
        return before

    def losses(self, heads: nn.Module, step: _Step, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the two weighted losses for one training step of the detector."""
        options = self.options
        assert step.images is not None and step.proposals is not None and step.features is not None
        rois, labels, places = self._draw(heads, step.proposals, targets)
        # Without boxes the classifier still takes part, on nothing: with several processes each parameter must.
        after = before = step.features[0].new_zeros(0, self.classifier.in_features)
        if len(rois):
            after, before = self._crop_features(heads, step, rois)
        kind = ("after_relu", "before_relu").index(options.feature)
        teacher, student = (after, before)[kind], step.features[kind][places]
        teacher = teacher.detach() if options.stop_gradient else teacher
        distance = mimic_loss(teacher, student, images=len(targets), reduction=options.reduction)
        errors = functional.cross_entropy(self.classifier(after).float(), labels, reduction="sum")
        return {
            "loss_mimic": options.weight * distance,
            "loss_mimic_classifier": options.classifier_weight * errors / max(len(labels), 1),
        }

    def _draw(
        self, heads: nn.Module, proposals: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the drawn boxes as rois (K, 5), their labels (K,), and their places among all proposals (K,)."""
        rois, labels, places, first = [], [], [], 0
        matcher = heads.proposal_matcher
        assert isinstance(matcher, Matcher)
        background = min(self.options.iou, float(matcher.low_threshold))
        for number, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
            matched = match_boxes(
                boxes,
                target["boxes"].to(boxes.dtype),
                target["labels"],
                iou=self.options.iou,
                background_iou=background,
                ground_truth=self.options.ground_truth,
            )
            drawn = draw_boxes(matched, self.options)
            rois.append(functional.pad(boxes[drawn], (1, 0), value=float(number)))
            labels.append(matched[drawn])
            places.append(drawn + first)
            first += len(boxes)
        return torch.cat(rois), torch.cat(labels), torch.cat(places)

    def _crop_features(self, heads: nn.Module, step: _Step, rois: Tensor) -> Features:
        """Return the features of the crops: all in one pass, or chunk by chunk, computed anew in the backward pass."""
        backbone, images, chunk = step.backbone, step.images, self.options.chunk
        assert backbone is not None and images is not None

        def features(part: Tensor) -> Features:
            return self._features(backbone, heads, crop_boxes(images, part, self.options))

        if chunk is None:
            return features(rois)
        parts = [checkpoint(features, part, use_reentrant=False) for part in rois.split(chunk)]
        after, before = zip(*parts, strict=True)
        return torch.cat(after), torch.cat(before)

    def _features(self, backbone: nn.Module, heads: nn.Module, crops: Tensor) -> Features:
        side = self.options.crop_size
        with _keep_statistics(backbone), _keep_statistics(heads):
            maps = backbone(crops)
            maps = {"0": maps} if isinstance(maps, Tensor) else maps
            whole = [crops.new_tensor([[0.0, 0.0, side, side]])] * len(crops)
            pooled = heads.box_roi_pool(maps, whole, [(side, side)] * len(crops))  # type: ignore[operator]
            after: Tensor = heads.box_head(pooled)  # type: ignore[operator]
        return after, self._taken_before_relu()


@contextmanager
def _keep_statistics(module: nn.Module) -> Iterator[None]:
    """Let trained batch norms normalise by the crops' own statistics, but not count them in the running ones.

    The running statistics are for whole images, which alone the detector sees in evaluation.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
