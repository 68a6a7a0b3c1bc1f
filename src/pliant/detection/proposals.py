# SPDX-License-Identifier: Apache-2.0
"""The region proposal network on a single map, as both papers have it on conv4, and its parts on any."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import Conv2dNormActivation

from pliant._check import fail
from pliant.detection.dilated import DilatedBackbone, at_least_float32, initialise
from pliant.detection.parts import AnchorOptions, SecondStage

BEFORE_NMS = 6000  # proposals with the highest scores, before suppression; the official v1 code's number
ANCHORS_PER_IMAGE = 256  # sampled in training, half of them positive at most; both papers and both codes


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors, in float32 at least: in bfloat16 coordinates beyond 512 would be multiples of 4."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Take the anchors of a cell to the device of the maps; `dtype`, which is theirs, may be a half type."""
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


class PreciseHead(RPNHead):  # type: ignore[misc]
    """torchvision's head of the proposal network, whose outputs are float32 at least: they become coordinates."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the scores (N, A, H, W) and deltas (N, 4*A, H, W) of each map."""
        scores, deltas = super().forward(maps)
        return [at_least_float32(s) for s in scores], [at_least_float32(d) for d in deltas]


class ProposalHead(PreciseHead):
    """A 3x3 convolution with ReLU, and a 1x1 convolution each for the scores and the boxes of the A anchors of a cell.

    It is torchvision's head with a width of its own (512 in the official code, where torchvision has the map's) and
    `scores` scores an anchor (N, A*scores, H, W): 1 is torchvision's, the logit of "object", which is the difference of
    the official code's two; C + 1 are the classes of a class-aware network.
    """

    def __init__(self, in_channels: int, num_anchors: int, hidden_channels: int = 512, scores: int = 1) -> None:
        super().__init__(hidden_channels, num_anchors)
        wide = Conv2dNormActivation(in_channels, hidden_channels, kernel_size=3, norm_layer=None)
        initialise(wide[0])
        self.conv = nn.Sequential(wide)
        self.cls_logits = nn.Conv2d(hidden_channels, num_anchors * scores, 1)
        initialise(self.cls_logits)


class MapProposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's region proposal network on the one map called `name` of the backbone's, with a `ProposalHead`."""

    def __init__(
        self,
        name: str,
        in_channels: int,
        anchors: AnchorOptions,
        hidden_channels: int,
        *,
        scores: int = 1,
        train_proposals: int,
        proposals: int,
        nms_threshold: float = 0.7,
    ) -> None:
        generator = map_anchors(anchors)
        super().__init__(
            generator,
            ProposalHead(in_channels, generator.num_anchors_per_location()[0], hidden_channels, scores),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=ANCHORS_PER_IMAGE,
            positive_fraction=0.5,
            pre_nms_top_n={"training": max(BEFORE_NMS, train_proposals), "testing": max(BEFORE_NMS, proposals)},
            post_nms_top_n={"training": train_proposals, "testing": proposals},
            nms_thresh=nms_threshold,
        )
        self.map_name = name

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return each image's proposals (Li, 4) and, in training, the losses."""
        found: tuple[list[Tensor], dict[str, Tensor]] = super().forward(
            images, {self.map_name: features[self.map_name]}, targets
        )
        return found


def conv4_proposals(
    backbone: DilatedBackbone, anchors: AnchorOptions, rpn_channels: int, second_stage: SecondStage
) -> MapProposals:
    """Return the region proposal network on conv4, as both papers have it."""
    sizes = {"train_proposals": second_stage.train_proposals, "proposals": second_stage.proposals}
    return MapProposals("c4", backbone.proposal_channels, anchors, rpn_channels, **sizes)


def map_anchors(anchors: AnchorOptions) -> Anchors:
    """Return the anchors of a single map: one for each size (the square root of its area), scale and ratio.

    Raises:
        PliantError: a size or ratio that is not positive, or none.
    """
    sizes = [size * scale for size in anchors.sizes or () for scale in anchors.scales]
    for name, values in (("anchor_sizes", sizes), ("anchor_ratios", anchors.ratios)):
        if not values or not all(value > 0 for value in values):
            fail(name, "must be positive numbers, at least one", tuple(values), "leave it out")
    return Anchors((tuple(sizes),), (tuple(anchors.ratios),))
