# SPDX-License-Identifier: Apache-2.0
"""The error-bounded saliency region of a node: the smallest part of the image that gives the same response.

The v2 paper confirms the idea and that the image is masked progressively; the procedure here is ours. docs/explain.md
says which of its steps are a reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant._check import fail
from pliant.analysis.nodes import MapNode, Node, RegionNode, looking, map_output, node_responses, region_outputs

Progress = Callable[[int, int], None]  # forward passes done, and at most
RECTANGLES = 64  # sizes of the rectangle that are told apart, even steps of area


@dataclass(frozen=True)
class SaliencyRegion:
    """A part of the image that is enough for a node.

    Attributes:
        mask: (H, W) of the network's input, true in the region.
        error: the error of the response to the masked image.
        share: the region's share (0..1) of the image.
        evaluations: masked images that the network was run on.
        block: side in pixels of the blocks that the region consists of at its border.
        complete: whether no single block can be left out any more; false where the budget ended before.
    """

    mask: Tensor
    error: float
    share: float
    evaluations: int
    block: int
    complete: bool


@torch.no_grad()
def saliency_region(
    network: nn.Module,
    images: Tensor,
    node: Node,
    *,
    epsilon: float = 0.1,
    budget: int = 24,
    block: int | None = None,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> SaliencyRegion:
    r"""Return a small part of the image to which a node responds as to the whole, within an error.

    .. math:: \min_M \|M\|_1 \quad \text{such that} \quad L(r(I), r(I \odot M)) < \epsilon

    For a `MapNode` the error L is :math:`\|r(I) - r(I \odot M)\|^2 / \|r(I)\|^2`. For a `RegionNode` it is the squared
    error of the class probabilities and, unless the region's best class is the background, of that class's box deltas
    as the box head gives them.

    What is masked reads zero, the mean colour for networks on normalised images. First a rectangle with the image's
    proportions, centred on the node, is sought by bisection over even steps of its area. Then the blocks of a grid in
    it are left out: each is tried alone, and those of the least error leave, one at a time where the budget allows it
    and otherwise as many together as the bound does, until none can; then the blocks are quartered while the budget
    lasts.

    Args:
        network: takes `images`; for a `RegionNode` a detector.
        images: (1, 3, H, W), as the network (or the detector's backbone) takes them.
        node: a `MapNode` or a `RegionNode`.
        epsilon: the bound on the error, above 0.
        budget: most masked images to run the network on, at least 8. More give a smaller region.
        block: side in pixels of the smallest blocks; None: 1/64 of the longer side.
        batch: masked images in one pass. More take more memory and, on a CPU, as long.
        size: height and width of the image in the input, where it is padded; None: all of it.
        progress: called with the evaluations done and `budget`, for a progress bar.

    Raises:
        ValueError: `epsilon` or `budget` is out of range, or the node is not one of the network.

    Example:
        >>> from pliant.analysis import MapNode
        >>> image = torch.rand(1, 1, 8, 8) + 1
        >>> region = saliency_region(nn.Conv2d(1, 2, 3), image, MapNode("", (3, 1)), epsilon=1e-6, block=1, budget=500)
        >>> region.mask.nonzero().amin(0).tolist(), region.mask.nonzero().amax(0).tolist()
        ([3, 1], [5, 3])

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 2.1.
    """
    for name, value, least in (("epsilon", epsilon, 0.0), ("budget", budget, 7), ("batch", batch, 0)):
        if not value > least:
            fail(name, f"must be more than {least:g}", value, "use epsilon=0.1, budget=64, batch=4, for example")
    with looking(network):
        bound = _Bound(network, images, node, epsilon, budget, batch, progress)
        height, width = size or (images.shape[-2], images.shape[-1])
        mask, error = _rectangle(bound, (height, width), _centre(network, images, node))
        smallest = block or max(1, math.ceil(max(height, width) / 64))
        mask, error, side, complete = _thinned(bound, mask, error, smallest)
    share = mask[:height, :width].float().mean().item()
    return SaliencyRegion(mask.cpu(), error, share, bound.done, side, complete)


class _Bound:
    """The error of masked images, and the account of how many were run."""

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        node: Node,
        epsilon: float,
        budget: int,
        batch: int,
        progress: Progress | None,
    ) -> None:
        self.network, self.images, self.node, self.epsilon, self.budget = network, images, node, epsilon, budget
        self.batch, self.progress, self.done = batch, progress, 0
        self.whole = self._response(images)
        self.best = int(self.whole[0].argmax()) if isinstance(node, RegionNode) else 0

    @property
    def left(self) -> int:
        """How many masked images may still be run."""
        return self.budget - self.done

    def errors(self, masks: list[Tensor]) -> list[float]:
        """Return the error of the image under each mask (H, W)."""
        found: list[float] = []
        for start in range(0, len(masks), self.batch):
            stacked = torch.stack(masks[start : start + self.batch])[:, None]
            found += self._error(self._response(self.images * stacked))
            self.done += len(stacked)
            if self.progress is not None:
                self.progress(self.done, self.budget)
        return found

    def _response(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The response of a map's cell, or class probabilities and box deltas (N, boxes, 4) of a region."""
        if isinstance(self.node, MapNode):
            response = node_responses(self.network, images, self.node).double()
            return response, response.new_zeros(len(response), 0)
        _, logits, deltas = region_outputs(self.network, images, self.node)
        return logits.double().softmax(dim=1), deltas.double().reshape(len(deltas), -1, 4)

    def _error(self, response: tuple[Tensor, Tensor]) -> list[float]:
        squared: Tensor = (response[0] - self.whole[0]).square().sum(dim=1)
        if isinstance(self.node, MapNode):
            return (squared / self.whole[0].square().sum(dim=1).clamp(min=1e-12)).tolist()
        if self.best > 0:  # not background
            box = min(self.best, response[1].shape[1] - 1)  # class-agnostic boxes: one for all classes
            squared = squared + (response[1][:, box] - self.whole[1][:, box]).square().sum(dim=1)
        return squared.tolist()


def _centre(network: nn.Module, images: Tensor, node: Node) -> tuple[float, float]:
    """The place (y, x) of a node in pixels of the input."""
    if isinstance(node, RegionNode):
        x1, y1, x2, y2 = node.box
        return (y1 + y2) / 2, (x1 + x2) / 2
    output = map_output(network, images, node.layer)
    y, x = (
        (cell + 0.5) * pixels / cells
        for cell, pixels, cells in zip(node.cell, images.shape[-2:], output.shape[-2:], strict=True)
    )
    return y, x


def _rectangle(bound: _Bound, size: tuple[int, int], centre: tuple[float, float]) -> tuple[Tensor, float]:
    """The smallest rectangle within the bound that bisection finds, and its error; the image itself has none."""
    low, high, error = 0, RECTANGLES, 0.0  # `high` is within the bound
    while high - low > 1:
        middle = (low + high) // 2
        tried = bound.errors([_rectangle_mask(bound.images, size, centre, middle)])[0]
        if tried < bound.epsilon:
            high, error = middle, tried
        else:
            low = middle
    return _rectangle_mask(bound.images, size, centre, high), error


def _rectangle_mask(images: Tensor, size: tuple[int, int], centre: tuple[float, float], step: int) -> Tensor:
    """The rectangle of `step` even steps of area: the last has twice the image's sides, and holds it wherever it is."""
    scale = math.sqrt(step / RECTANGLES)
    mask = torch.zeros(images.shape[-2:], device=images.device)
    spans = []
    for middle, length in zip(centre, size, strict=True):
        spans.append(
            slice(max(0, math.floor(middle - scale * length)), min(length, math.ceil(middle + scale * length)))
        )
    mask[spans[0], spans[1]] = 1
    return mask


def _thinned(bound: _Bound, mask: Tensor, error: float, smallest: int) -> tuple[Tensor, float, int, bool]:
    """Leave blocks out while the bound holds; the mask, its error, the blocks' side, and whether none can leave."""
    area = float(mask.sum())
    # A third of the budget for the first round over all blocks.
    side = max(smallest, math.ceil(math.sqrt(area / max(1, bound.left // 3))))
    while True:
        blocks = _blocks(mask, side)
        if not blocks:  # an empty image is enough: the response does not rest on the image
            return mask, error, side, True
        if len(blocks) + math.ceil(math.log2(len(blocks) + 1)) > bound.left:
            return mask, error, side, False
        alone = bound.errors([mask * ~block for block in blocks])
        order = sorted(range(len(blocks)), key=alone.__getitem__)
        one_at_a_time = bound.left >= len(blocks) * (len(blocks) - 1) // 2
        if alone[order[0]] >= bound.epsilon:
            if side == smallest:
                return mask, error, side, True
            side = max(smallest, side // 2)
        elif one_at_a_time:
            mask, error = mask * ~blocks[order[0]], alone[order[0]]
        else:
            mask, error = _most_left_out(bound, mask, [blocks[i] for i in order], alone[order[0]])


def _most_left_out(bound: _Bound, mask: Tensor, blocks: list[Tensor], first: float) -> tuple[Tensor, float]:
    """Leave out as many of the blocks, in their order, as bisection finds within the bound; the first is."""
    low, high, error = 1, len(blocks) + 1, first
    while high - low > 1 and bound.left > 0:
        middle = (low + high) // 2
        tried = bound.errors([mask * ~torch.stack(blocks[:middle]).any(0)])[0]
        low, high, error = (middle, high, tried) if tried < bound.epsilon else (low, middle, error)
    return mask * ~torch.stack(blocks[:low]).any(0), error


def _blocks(mask: Tensor, side: int) -> list[Tensor]:
    """The blocks (H, W) of a grid of `side` pixels that the mask has a part in."""
    height, width = mask.shape
    rows, columns = torch.arange(height, device=mask.device) // side, torch.arange(width, device=mask.device) // side
    number = rows[:, None] * (int(columns[-1]) + 1) + columns
    return [number == i for i in number[mask > 0].unique().tolist()]
