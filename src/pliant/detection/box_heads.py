# SPDX-License-Identifier: Apache-2.0
"""The second stage with the official code's losses, class-agnostic boxes, hard example mining, and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import box_iou

from pliant._check import fail
from pliant.detection.dilated import at_least_float32, initialise
from pliant.detection.parts import Thresholds

FOREGROUND_IOU = 0.5  # overlap with a box from which a region is foreground, in Detectron and in the official v1 code


def refuse_ohem_with_masks(ohem: int) -> NoReturn:
    """Raise a `PliantError`: a mask head is trained on sampled regions."""
    fail("ohem", "must be left out with masks, which are trained on sampled regions", ohem, "leave it out")


class MapRoIPool(nn.Module):
    """RoI pooling from the one map called `name`, called as torchvision's `MultiScaleRoIAlign` is."""

    def __init__(self, name: str, pool: nn.Module) -> None:
        super().__init__()
        self.map_name, self.pool = name, pool

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object) -> Tensor:
        """Return the pooled regions, image by image."""
        pooled: Tensor = self.pool(features[self.map_name], boxes)
        return pooled


class BoxPredictor(nn.Module):
    """Features (R, D) to class logits (R, C+1) and box deltas (R, 4*boxes); names are torchvision's."""

    def __init__(self, in_channels: int, num_classes: int, boxes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * boxes)
        initialise(self.cls_score)
        initialise(self.bbox_pred)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and deltas."""
        return self.cls_score(features), self.bbox_pred(features)


class BoxHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's second stage for boxes and masks, with what the official code has and torchvision lacks.

    Args:
        box_roi_pool: (maps, boxes of each image, image sizes) to the pooled regions.
        box_head: pooled regions to features.
        box_predictor: features to logits (R, C+1) and box deltas (R, 4*(C+1)), or (R, 8) if `class_agnostic`.
        roi_samples: regions of an image that are trained on ...
        positive_fraction: ... of which at most this share is foreground (an overlap of 0.5 with a box, or more).
        ohem: None, or: all proposals of an image go through the head, and these many with the highest loss train it.
        class_agnostic: one box for all classes; its deltas come after four for the background, which nothing trains.
        beta: of the smooth L1 loss, see `region_losses`.
        background_iou: proposals that overlap every box by less than this are not trained on; the official code's
            Faster R-CNN without OHEM has 0.1.
        thresholds: which boxes are detections.
        mask_parts: torchvision's `mask_roi_pool`, `mask_head` and `mask_predictor`, or nothing.

    Raises:
        PliantError: `ohem` is below 1, or given with masks; or `background_iou` is not below the foreground's 0.5.
    """

    def __init__(
        self,
        box_roi_pool: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        *,
        roi_samples: int = 128,
        positive_fraction: float = 0.25,
        ohem: int | None = None,
        class_agnostic: bool = False,
        beta: float = 1.0,
        background_iou: float = 0.0,
        thresholds: Thresholds = Thresholds(),
        **mask_parts: nn.Module,
    ) -> None:
        if ohem is not None and mask_parts:
            refuse_ohem_with_masks(ohem)
        if ohem is not None and ohem < 1:
            fail("ohem", "must be at least 1", ohem, "use 128 (official R-FCN), or None")
        if not 0 <= background_iou < FOREGROUND_IOU:
            rule = f"must be 0 or more and below {FOREGROUND_IOU}, from which a region is foreground"
            fail("background_iou", rule, background_iou, "the official v1 code has 0.1")
        super().__init__(
            box_roi_pool,
            box_head,
            box_predictor,
            fg_iou_thresh=FOREGROUND_IOU,
            bg_iou_thresh=FOREGROUND_IOU,
            batch_size_per_image=roi_samples,
            positive_fraction=positive_fraction,
            bbox_reg_weights=None,  # torchvision's 10, 10, 5, 5 are the official deviations 0.1, 0.1, 0.2, 0.2
            score_thresh=thresholds.score,
            nms_thresh=thresholds.nms,
            detections_per_img=thresholds.detections,
            **mask_parts,
        )
        self.ohem, self.class_agnostic = ohem, class_agnostic
        self.beta, self.background_iou = beta, background_iou

    @classmethod
    def mining(cls, heads: RoIHeads, ohem: int) -> BoxHeads:
        """Return the second stage `heads` of torchvision's Faster R-CNN, its parts and losses, with hard examples."""
        return cls(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            ohem=ohem,
            beta=1 / 9,
            thresholds=Thresholds(heads.score_thresh, heads.nms_thresh, heads.detections_per_img),
        )

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each image's matched boxes and labels (L,); -1 is not trained on."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        if self.background_iou > 0:
            for given, boxes, found in zip(proposals, gt_boxes, labels, strict=True):
                if len(boxes):
                    found[box_iou(boxes, given).amax(dim=0) < self.background_iou] = -1
        return matched, labels

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        """Return the places of each image's regions that go through the head."""
        if self.ohem is not None:
            return [torch.where(found >= 0)[0] for found in labels]
        sampled: list[Tensor] = super().subsample(labels)
        return sampled

    def losses(self, logits: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
        """Return the two losses, averaged over the regions sampled, or over the hardest."""
        classification, box = region_losses(
            logits, self._by_class(deltas, logits), torch.cat(labels), torch.cat(targets), beta=self.beta
        )
        if self.ohem is not None:
            kept = hardest(classification + box, [len(found) for found in labels], self.ohem)
            classification, box = classification[kept], box[kept]
        count = max(len(classification), 1)
        return {"loss_classifier": classification.sum() / count, "loss_box_reg": box.sum() / count}

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return each image's detections, none in training, and the losses, none in evaluation."""
        if self.training:
            assert targets is not None
            proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
            losses = self.losses(*self.predict(features, proposals, image_shapes), labels, wanted)
            if self.has_mask():
                foreground = [torch.where(found > 0)[0] for found in labels]
                proposals = [boxes[chosen] for boxes, chosen in zip(proposals, foreground, strict=True)]
                matched = [boxes[chosen] for boxes, chosen in zip(matched, foreground, strict=True)]
                logits = self.predict_masks(features, proposals, image_shapes)
                masks, classes = [t["masks"] for t in targets], [t["labels"] for t in targets]
                losses["loss_mask"] = maskrcnn_loss(logits, proposals, masks, classes, matched)
            return [], losses
        logits, deltas = self.predict(features, proposals, image_shapes)
        every = self._by_class(deltas, logits).flatten(1)
        found = self.postprocess_detections(logits, every, proposals, image_shapes)
        names = ("boxes", "scores", "labels")
        detections = [dict(zip(names, image, strict=True)) for image in zip(*found, strict=True)]
        if self.has_mask():
            logits = self.predict_masks(features, found[0], image_shapes)
            for image, masks in zip(detections, maskrcnn_inference(logits, found[2]), strict=True):
                image["masks"] = masks
        return detections, {}

    def predict(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return the class logits (R, C+1) and the box deltas of the regions of all images, in float32 at least."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_shapes)))
        return at_least_float32(logits), at_least_float32(deltas)

    def predict_masks(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Return the logits of each class's mask (R, C+1, M, M) in the regions of all images, in float32 at least."""
        return at_least_float32(self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes))))

    def _by_class(self, deltas: Tensor, logits: Tensor) -> Tensor:
        """The box deltas of each class (R, C+1, 4)."""
        deltas = deltas.unflatten(1, (-1, 4))
        if not self.class_agnostic:
            return deltas
        foreground = (torch.arange(logits.shape[1], device=deltas.device) > 0).long()
        return deltas[:, foreground]


def region_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    r"""Return each region's classification and box loss, (R,) each.

    .. math:: L_{cls} = -\log \mathrm{softmax}(z)_u, \quad L_{box} = [u > 0] \sum_{i} \mathrm{smooth}_{L1}(t^u_i - v_i)

    Args:
        logits: z (R, C+1).
        deltas: t (R, C+1, 4), the predicted box deltas of each class.
        labels: u (R,), 0 for background.
        targets: v (R, 4), the deltas of the matched box.
        beta: where the smooth L1 loss goes from quadratic to linear; 1 in the official code, 1/9 in torchvision.

    Example:
        >>> zeros = torch.zeros(2, 2)
        >>> box = torch.tensor([[[0.0] * 4, [3.0, 0, 0, 0]]] * 2)
        >>> region_losses(zeros, box, torch.tensor([1, 0]), torch.zeros(2, 4), beta=1.0)
        (tensor([0.6931, 0.6931]), tensor([2.5000, 0.0000]))
    """
    classification = functional.cross_entropy(logits, labels, reduction="none")
    own = deltas[torch.arange(len(labels), device=labels.device), labels]
    box = functional.smooth_l1_loss(own, targets, beta=beta, reduction="none").sum(dim=1)
    return classification, torch.where(labels > 0, box, 0.0)


def hardest(losses: Tensor, per_image: Sequence[int], keep: int) -> Tensor:
    """Return the places in `losses` of each image's `keep` regions with the highest loss, or all where it has fewer.

    The official code ranks all regions by the sum of their two losses and lets the rest go without gradient; near
    duplicates among them are not suppressed first, as Shrivastava et al. (arXiv 1604.03540) do.

    Args:
        losses: (R,), image by image.
        per_image: how many of them each image has.
        keep: how many to keep of each image.

    Example:
        >>> hardest(torch.tensor([0.2, 0.9, 0.5, 0.1, 0.4]), [3, 2], keep=2).tolist()
        [1, 2, 4, 3]
    """
    chosen, first = [], 0
    for part in losses.detach().split(list(per_image)):
        chosen.append(part.topk(min(keep, len(part))).indices + first)
        first += len(part)
    return torch.cat(chosen)
