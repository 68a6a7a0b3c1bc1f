# SPDX-License-Identifier: Apache-2.0
"""The class-aware region proposal network of the v1 paper: a detector of one stage, a simple form of SSD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from pliant.backbones import Trunk
from pliant.detection.dilated import DilatedBackbone, as_dilated, image_transform
from pliant.detection.parts import AnchorOptions, Thresholds
from pliant.detection.proposals import MapProposals

REDUCTION_CHANNELS = 1024


def class_aware_rpn(
    num_classes: int,
    backbone: str | Trunk | DilatedBackbone = "resnet101",
    *,
    rpn_channels: int = 512,
    anchors: AnchorOptions = AnchorOptions(sizes=(64, 128, 256, 512)),
    min_size: int | Sequence[int] = 600,
    max_size: int = 1000,
    thresholds: Thresholds = Thresholds(nms=0.3),
) -> GeneralizedRCNN:
    """Return the class-aware RPN of the v1 paper, for which no code was ever released.

    A region proposal network on conv5 (after the 1x1 convolution to 1024 channels that the paper puts on every
    backbone) whose classifier of "object or not" is one of C + 1 classes for each anchor; what it proposes is what it
    detects. As the paper changes the classifier alone, the boxes are those of an RPN: one for each anchor, whatever
    its class. The paper leaves open: anchors (here the official R-FCN's for COCO), the class-wise NMS at test time
    (here 0.3, also R-FCN's), and the number of boxes that go into it (here the 6000 with the highest scores).

    Args:
        num_classes: classes with the background: C + 1 for labels 1..C.
        backbone: a finished `dilated_backbone(..., reduction_channels=1024)`, or its trunk, or the name of that.
        rpn_channels: width of the 3x3 convolution.
        anchors: of each cell of conv5.
        min_size: images are resized so that the short side has so many pixels (of several values one at random in
            training and the last in evaluation) ...
        max_size: ... unless the long side would have more than these.
        thresholds: which boxes are detections.

    Raises:
        PliantError: an argument out of its range, or a backbone that does not fit.

    Example:
        >>> from pliant.backbones import Trunk
        >>> from pliant.detection import dilated_backbone
        >>> trunk = Trunk("resnet18", deform="c5", modulated=False)
        >>> model = class_aware_rpn(3, dilated_backbone(trunk, reduction_channels=64), min_size=64).eval()
        >>> sorted(model([torch.zeros(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3.
    """
    backbone = as_dilated(backbone, num_classes, REDUCTION_CHANNELS)
    rpn = ClassAwareProposals(
        "c5",
        backbone.out_channels,
        anchors,
        rpn_channels,
        scores=num_classes,
        train_proposals=thresholds.detections,
        proposals=thresholds.detections,
        nms_threshold=thresholds.nms,
    )
    rpn.score_thresh = thresholds.score
    return GeneralizedRCNN(backbone, rpn, NoSecondStage(), image_transform(backbone, min_size, max_size))


class NoSecondStage(nn.Module):
    """The second stage of a detector of one stage: the proposals are the detections."""

    def forward(
        self, features: object, proposals: list[dict[str, Tensor]], image_shapes: object, targets: object = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the proposals as they are."""
        return proposals, {}


class ClassAwareProposals(MapProposals):
    """A region proposal network with a class for each anchor; in evaluation its proposals are detections.

    Anchors are matched, sampled (256, half of them foreground at most) and decoded as in the RPN.
    """

    def forward(  # type: ignore[override]  # detections where its base has boxes
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return each image's boxes, labels and scores, none in training, and the losses, none in evaluation."""
        maps = [features[self.map_name]]
        logits, deltas = concat_box_prediction_layers(*self.head(maps))  # (anchors of all images, C+1), (..., 4)
        anchors = self.anchor_generator(images, maps)
        if self.training:
            assert targets is not None
            return [], self.losses(logits, deltas, anchors, targets)
        boxes = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        scores = functional.softmax(logits, dim=1).view(len(anchors), -1, logits.shape[1])
        found = zip(boxes, scores, images.image_sizes, strict=True)
        return [self.detections(*image) for image in found], {}

    def losses(
        self, logits: Tensor, deltas: Tensor, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the two losses, averaged over the anchors sampled."""
        labels, boxes = zip(*map(self.match, anchors, targets), strict=True)
        wanted = torch.cat(self.box_coder.encode(list(boxes), anchors))
        positive, negative = (torch.cat(list(masks)) for masks in self.fg_bg_sampler(labels))  # (anchors,)
        sampled = torch.where(positive | negative)[0]
        foreground = torch.where(positive)[0]
        count = max(len(sampled), 1)
        classification = functional.cross_entropy(logits[sampled], torch.cat(labels)[sampled], reduction="sum")
        box = functional.smooth_l1_loss(deltas[foreground], wanted[foreground], beta=1 / 9, reduction="sum")
        return {"loss_classifier": classification / count, "loss_box_reg": box / count}

    def match(self, anchors: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return each anchor's label (A,), 0 for background and -1 for neither, and its box (A, 4)."""
        if not len(target["boxes"]):
            return torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device), torch.zeros_like(anchors)
        matched = self.proposal_matcher(box_iou(target["boxes"], anchors))
        nearest = matched.clamp(min=0)
        return torch.where(matched >= 0, target["labels"][nearest], matched + 1), target["boxes"][nearest]

    def detections(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Return boxes, labels and scores of one image from its anchors' boxes (A, 4) and class scores (A, C+1)."""
        foreground = scores[:, 1:].flatten()  # (A*C,)
        classes = scores.shape[1] - 1
        order = foreground.topk(min(self.pre_nms_top_n(), len(foreground))).indices
        order = order[foreground[order] > self.score_thresh]
        boxes, labels = clip_boxes_to_image(boxes[order // classes], image_size), order % classes + 1
        kept = remove_small_boxes(boxes, min_size=1e-2)
        order, boxes, labels = order[kept], boxes[kept], labels[kept]
        kept = batched_nms(boxes, foreground[order], labels, self.nms_thresh)[: self.post_nms_top_n()]
        return {"boxes": boxes[kept], "labels": labels[kept], "scores": foreground[order][kept]}
