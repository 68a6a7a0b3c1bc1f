# SPDX-License-Identifier: Apache-2.0
"""The losses of the second stage, region by region, and online hard example mining over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


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
