# SPDX-License-Identifier: Apache-2.0
"""What becomes of overlapping boxes: hard or soft suppression, and averages of the boxes around those that are kept."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms, box_iou

from pliant._check import fail

Method = Literal["hard", "linear", "gaussian"]


def suppress(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: Method = "hard",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.001,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor]:
    r"""Return which boxes are kept, class by class, and their scores, best first.

    `hard` is the usual non-maximum suppression. Soft-NMS keeps every box and lowers its score: while boxes are left,
    the one with the highest score, M, is taken out, and the scores of the others of its class become

    .. math:: s_i \leftarrow s_i \, (1 - \mathrm{iou}(M, b_i)) \text{ where } \mathrm{iou}(M, b_i) > N_t
              \quad\text{(linear)}, \qquad s_i \leftarrow s_i \, e^{-\mathrm{iou}(M, b_i)^2 / \sigma}
              \quad\text{(gaussian)}.

    All classes take their steps together, so there are at most `max_detections` of them.

    Args:
        boxes: (L, 4) corners in pixels.
        scores: (L,), 0..1.
        labels: (L,) integers; boxes of different labels do not suppress each other.
        method: `hard`, `linear` or `gaussian`.
        iou_threshold: N_t, of hard and linear suppression.
        sigma: of the Gaussian.
        min_score: soft suppression drops boxes whose score has sunk below this.
        max_detections: keep the best this many, of all classes together.

    Returns:
        Indices into `boxes` (K,), and the scores of those boxes (K,), which soft suppression has lowered.

    Raises:
        PliantError: an unknown method, or `sigma` or `min_score` not positive.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 1])
        >>> suppress(boxes, scores, labels)[0].tolist()
        [0, 2]
        >>> kept, lowered = suppress(boxes, scores, labels, method="linear")
        >>> kept.tolist(), [round(s, 2) for s in lowered.tolist()]  # an overlap of 0.8 leaves a fifth of 0.8
        ([0, 2, 1], [0.9, 0.7, 0.16])

    References:
        Soft-NMS: Improving Object Detection With One Line of Code (arXiv 1704.04503), Fig. 2.
    """
    if method not in get_args(Method):
        fail("method", f"must be one of {', '.join(get_args(Method))}", repr(method), "use 'hard'")
    if sigma <= 0 or min_score <= 0:
        fail("sigma and min_score", "must be positive", (sigma, min_score), "use 0.5 and 0.001")
    if method == "hard" or not len(boxes):
        kept = batched_nms(boxes, scores, labels, iou_threshold)[:max_detections]
        return kept, scores[kept]
    threshold = iou_threshold if method == "linear" else None
    index, lowered = _soft(boxes, scores, labels, threshold, sigma, min_score, max_detections)
    order = lowered.argsort(descending=True, stable=True)[:max_detections]
    return index[order], lowered[order]


def _soft(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    threshold: float | None,
    sigma: float,
    min_score: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS of all classes at once: each is a row of a grid; linear with a `threshold`, gaussian without."""
    index = _grid(labels)  # (classes, most boxes of a class), -1 where a row ends
    there = index >= 0
    grid = boxes.float()[index.clamp(min=0)]  # (classes, W, 4)
    left = scores.float()[index.clamp(min=0)] * there  # 0 for what is taken out, or was never there
    rows = torch.arange(len(index), device=boxes.device)
    taken, lowered = [], []
    for _ in range(min(steps, index.shape[1])):
        best, place = left.max(dim=1)  # (classes,)
        alive = best >= min_score
        if not alive.any():
            break
        taken.append(index[rows, place][alive])
        lowered.append(best[alive])
        overlap = _row_iou(grid[rows, place], grid)  # (classes, W)
        if threshold is None:
            left = left * torch.exp(-overlap.square() / sigma)
        else:
            left = torch.where(overlap > threshold, left * (1 - overlap), left)
        left[rows, place] = 0
    if not taken:
        return index.new_empty(0), left.new_empty(0)
    return torch.cat(taken), torch.cat(lowered).to(scores.dtype)


def _grid(labels: Tensor) -> Tensor:
    """The indices of the boxes of each class in a row of its own, filled up with -1."""
    rows = [torch.where(labels == label)[0] for label in labels.unique()]
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def _row_iou(one: Tensor, many: Tensor) -> Tensor:
    """The overlap of a box (classes, 4) with each of its row (classes, W, 4); 0 for boxes without area."""
    low = torch.maximum(one[:, None, :2], many[..., :2])
    high = torch.minimum(one[:, None, 2:], many[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area = (one[:, 2:] - one[:, :2]).prod(-1)[:, None] + (many[..., 2:] - many[..., :2]).prod(-1)
    overlap: Tensor = common / (area - common).clamp(min=torch.finfo(common.dtype).tiny)
    return overlap


def average_boxes(
    kept: Tensor,
    kept_labels: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    iou_threshold: float = 0.5,
    rounds: int = 1,
) -> Tensor:
    r"""Return each kept box (K, 4) moved to the average of the boxes around it, weighted by their scores.

    .. math:: b \leftarrow \frac{\sum_{j \in N(b)} s_j \, b_j}{\sum_{j \in N(b)} s_j}, \qquad
              N(b) = \{ j : \mathrm{iou}(b, b_j) \ge t, \text{ same class} \},

    over all boxes from before suppression, `rounds` times: each round takes the neighbours of where the box is by then.
    One round is the box voting of Gidaris and Komodakis. Scores and classes of the kept boxes stay. A box without
    neighbours, which can be none of `boxes`, stays where it is.

    The v1 paper's "iterative bounding box average" (Table 5, column B) is not spelled out in it; this is the rule here.

    Args:
        kept: (K, 4) corners in pixels.
        kept_labels: (K,).
        boxes: (L, 4), all boxes from before suppression.
        scores: (L,), 0..1.
        labels: (L,).
        iou_threshold: t.
        rounds: how often.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])
        >>> scores, labels = torch.tensor([0.75, 0.25, 0.7]), torch.tensor([1, 1, 1])
        >>> average_boxes(boxes[[0, 2]], labels[[0, 2]], boxes, scores, labels).tolist()
        [[0.0, 0.0, 10.0, 9.5], [20.0, 20.0, 30.0, 30.0]]

    References:
        Object detection via a multi-region and semantic segmentation-aware CNN model (arXiv 1505.01749), section 5.2.
    """
    same = kept_labels[:, None] == labels  # (K, L)
    for _ in range(rounds):
        weights = scores * (same & (box_iou(kept, boxes) >= iou_threshold))  # (K, L)
        total = weights.sum(dim=1, keepdim=True)
        kept = torch.where(total > 0, weights @ boxes / total.clamp(min=torch.finfo(total.dtype).tiny), kept)
    return kept
